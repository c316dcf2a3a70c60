"""What an approval says. Its signature is the node's to verify, when the reservation is activated."""

import base64
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from services.common.errors import ApprovalRefused
from services.common.specs import Checkpoint, DeviceKind
from services.trainer.node import Approval, DeviceAmount


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The signed part of an approval. The fields beside the token are copies that nobody signed."""

    run: str
    node: str
    device: DeviceKind
    amounts: Mapping[str, int]
    spec_sha256: str
    exp: float
    start_from: Checkpoint | None = None

    def device_amounts(self) -> tuple[DeviceAmount, ...]:
        """Return what is reserved on each device."""
        return tuple(DeviceAmount(device=name, reserved_bytes=size) for name, size in self.amounts.items())

    def training_bytes(self) -> int:
        """Return what is reserved on the device that trains: of several GPUs, on each."""
        if self.device is DeviceKind.CPU:
            return self.amounts.get("host", 0)
        return max((size for name, size in self.amounts.items() if name not in ("host", "disk")), default=0)


_CLAIMS = TypeAdapter(Claims)


def check_approval(approval: Approval | None, run: str, node: str, spec: bytes) -> tuple[str, Claims]:
    """Return an approval's token and what it says, if that is exactly what is about to be started.

    Raises:
        ApprovalRefused: it is missing, or for another run, node or spec.
    """
    if approval is None or not approval.token:
        raise ApprovalRefused(run, "there is none")
    # Its signature counts, and the node alone can verify that. What is not signed must at least agree.
    claims = _read(approval.token, run)
    digest = hashlib.sha256(spec).hexdigest()
    for label, signed, copied, actual in (
        ("run", claims.run, approval.run, run),
        ("node", claims.node, approval.node, node),
        ("spec with the SHA-256", claims.spec_sha256, approval.spec_sha256, digest),
    ):
        other = next((value for value in (signed, copied) if value != actual), None)
        if other is not None:
            raise ApprovalRefused(run, f"it is for the {label} {other or 'that it leaves out'}, not {actual}")
    return approval.token, claims


def check_in_time(claims: Claims) -> None:
    """Raise ApprovalRefused where the time to start the run is over."""
    if claims.exp <= time.time():
        raise ApprovalRefused(claims.run, "it has expired")


def _read(token: str, run: str) -> Claims:
    try:
        payload = token.split(".")[1]
        return _CLAIMS.validate_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, ValidationError):
        raise ApprovalRefused(run, "its token is none of a node's") from None
