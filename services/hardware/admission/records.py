"""Events of the journal as lines of JSON."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.common.specs import DeviceKind
from services.hardware.admission.reservations import Activated, Entry, Event, Expired, Held, Released
from services.hardware.resources import DeviceAmount, ReservationState


def to_line(event: Event) -> str:
    """Return one event as a line without its end."""
    match event:
        case Held(entry):
            record: dict[str, Any] = {"event": "held", **_entry_to_json(entry)}
        case Activated(run, approval_id):
            record = {"event": "activated", "run": run, "approval_id": approval_id}
        case Expired(run):
            record = {"event": "expired", "run": run}
        case Released(run):
            record = {"event": "released", "run": run}
    return json.dumps(record, separators=(",", ":"))


def from_line(line: str) -> Event:
    """Return the event of a line. Raises ValueError where it is none."""
    try:
        record = json.loads(line)
        match record["event"]:
            case "held":
                return Held(_entry_from_json(record))
            case "activated":
                return Activated(record["run"], record["approval_id"])
            case "expired":
                return Expired(record["run"])
            case "released":
                return Released(record["run"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record of a reservation: {line[:80]!r}: {error!r}") from None
    raise ValueError(f"unknown event {record['event']!r}: a newer version wrote this journal")


def _entry_to_json(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "run": entry.run,
        "state": entry.state,
        "amounts": amounts_to_json(entry.amounts),
        "device": entry.device,
        "spec_sha256": entry.spec_sha256,
        "create_time": entry.create_time.isoformat(),
        "shared": entry.shared,
    }


def _entry_from_json(record: Mapping[str, Any]) -> Entry:
    return Entry(
        id=record["id"],
        run=record["run"],
        state=ReservationState(record["state"]),
        amounts=amounts_from_json(record["amounts"]),
        device=DeviceKind(record["device"]),
        spec_sha256=record["spec_sha256"],
        create_time=datetime.fromisoformat(record["create_time"]),
        shared=record["shared"],
    )


def amounts_to_json(amounts: tuple[DeviceAmount, ...]) -> dict[str, int]:
    """Return reserved bytes by device, in the order given."""
    return {amount.device: amount.reserved_bytes for amount in amounts}


def amounts_from_json(amounts: Mapping[str, int]) -> tuple[DeviceAmount, ...]:
    """Return what `amounts_to_json` was given, without what is used."""
    return tuple(DeviceAmount(device=device, reserved_bytes=int(size)) for device, size in amounts.items())
