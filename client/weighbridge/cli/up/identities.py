"""Tokens, one an identity, and the table of who may call what."""

import hashlib
import json
import secrets
from typing import Any

from weighbridge.cli.up.home import Home, write_private

_GATEWAY, _HARDWARE, _TRAINER = (
    "/weighbridge.gateway.v1",
    "/weighbridge.hardware.v1",
    "/weighbridge.trainer.v1",
)
# Only the gateway may reserve, only the trainer activates, and each is let into no more than it needs.
METHODS: dict[str, tuple[str, ...]] = {
    "user": (
        f"{_GATEWAY}.TrainingService/*",
        f"{_GATEWAY}.FleetService/List*",
        f"{_GATEWAY}.FleetService/WatchFleet",
        f"{_GATEWAY}.FleetService/CordonNode",
        f"{_GATEWAY}.FleetService/UncordonNode",
        f"{_GATEWAY}.FleetService/DrainNode",
        f"{_GATEWAY}.FleetService/DeleteNode",
        f"{_GATEWAY}.FleetService/PullModel",
        f"{_GATEWAY}.FleetService/DeleteModel",
        f"{_GATEWAY}.FleetService/Recommend*",
        f"{_GATEWAY}.FleetService/FindLargestFeasible",
        "/grpc.reflection.*",
    ),
    "gateway": (
        f"{_HARDWARE}.NodeService/GetNode",
        f"{_HARDWARE}.NodeService/WatchNode",
        f"{_HARDWARE}.NodeService/CheckFeasibility",
        f"{_HARDWARE}.NodeService/Reserve",
        f"{_HARDWARE}.NodeService/ReleaseReservation",
        f"{_HARDWARE}.NodeService/ListReservations",
        f"{_HARDWARE}.EstimatorService/*",
        f"{_TRAINER}.TrainerService/*",
    ),
    "hardware": (f"{_GATEWAY}.FleetService/RegisterNode", f"{_GATEWAY}.FleetService/HeartbeatNode"),
    "trainer": (
        f"{_HARDWARE}.NodeService/ActivateReservation",
        f"{_HARDWARE}.NodeService/ReportUsage",
        f"{_HARDWARE}.NodeService/ReleaseReservation",
        f"{_HARDWARE}.NodeService/ReportTrainer",
    ),
}


# Where the table names more users, by an administrator's hand, each has a name of its own.
_NAMES = {(identity, "") for identity in METHODS}


def create_identities(home: Home) -> None:
    """Write the tokens that are missing, and the table; what others entered into the table stays."""
    ours = [_entry(identity, _token(home, identity)) for identity in METHODS]
    others = [entry for entry in _entries(home) if (entry["identity"], entry.get("name", "")) not in _NAMES]
    write_private(home.identities_file, json.dumps({"identities": ours + others}, indent=1) + "\n")


def _token(home: Home, identity: str) -> str:
    path = home.token_file(identity)
    # Kept from start to start: clients, and workers that outlive a restart, know it.
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32) + "\n")
    return path.read_text().strip()


def _entry(identity: str, token: str) -> dict[str, Any]:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return {
        "identity": identity,
        "token_sha256": digest,
        "methods": list(METHODS[identity]),
        "projects": ["*"],
    }


def _entries(home: Home) -> list[dict[str, Any]]:
    if not home.identities_file.exists():
        return []
    found: list[dict[str, Any]] = json.loads(home.identities_file.read_text())["identities"]
    return found
