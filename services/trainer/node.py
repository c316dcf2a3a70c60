"""What the trainer and its node say to each other: parts of weighbridge.hardware.v1, field by field."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.common.specs import Checkpoint, DeviceKind, Task


class ReservationState(StrEnum):
    """Where a reservation stands."""

    HELD = "held"
    ACTIVE = "active"
    EXPIRED = "expired"
    RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class DeviceAmount:
    """Memory of one device: a GPU's UUID, `host` or `disk`."""

    device: str
    reserved_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Memory promised to one run."""

    run: str
    state: ReservationState
    amounts: tuple[DeviceAmount, ...] = ()
    spec_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Approval:
    """The node's signed word that a run may start. All but `token` is a copy of what is signed."""

    token: str
    run: str
    node: str
    amounts: tuple[DeviceAmount, ...] = ()
    device: DeviceKind | None = None
    spec_sha256: str = ""
    start_from: Checkpoint | None = None
    expire_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Software:
    """What a worker of this trainer can import, and the tasks that there are recipes for."""

    tasks: tuple[Task, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    import_errors: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str = ""
    report_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class TrainerReport:
    """The node's answer to a report: which node it is, and the reservations that are active there."""

    node: str
    reservations: tuple[Reservation, ...] = ()
    lease_s: float | None = None
    """How long runs may go on unless the node hears from its gateway. None: for ever."""
