"""A node and what stands on it: 1:1 with weighbridge.hardware.v1, where every field is described.

Nothing here is computed: inventory and admission fill these in, and the wire carries them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.common.specs import Checkpoint, DeviceKind, Task

HOST = "host"
"""Id of the device that stands for host memory."""
DISK = "disk"
"""Id of the device that stands for the disk of the run directories."""


class NodeState(StrEnum):
    """Whether a node takes jobs."""

    READY = "ready"
    NOT_READY = "not_ready"


class MemoryKind(StrEnum):
    """A kind of memory."""

    HOST = "host"
    GPU = "gpu"
    DISK = "disk"


class ReservationState(StrEnum):
    """Where a reservation stands."""

    HELD = "held"
    ACTIVE = "active"
    EXPIRED = "expired"
    RELEASED = "released"


@dataclass(frozen=True, kw_only=True)
class SystemInfo:
    """Machine and operating system."""

    hostname: str
    os: str = ""
    kernel: str = ""
    architecture: str = ""
    in_container: bool = False


@dataclass(frozen=True, kw_only=True)
class Cpu:
    """The processors that a job may use."""

    model: str = ""
    physical_cores: int = 0
    logical_cores: int = 0
    usable_cores: float = 0.0
    instruction_sets: tuple[str, ...] = ()
    utilization: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    used_bytes: int
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU, or a slice of one."""

    uuid: str
    index: int
    product: str
    total_bytes: int
    free_bytes: int
    compute_capability: str = ""
    driver_version: str = ""
    cuda_version: str = ""
    mig: bool = False
    utilization: float = 0.0
    temperature_celsius: int = 0
    power_watts: float = 0.0
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Software:
    """What the trainer of a node can import."""

    tasks: tuple[Task, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    import_errors: Mapping[str, str] = field(default_factory=dict)
    torch_cuda: str = ""
    report_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Device:
    """One thing that is weighed."""

    id: str
    kind: MemoryKind
    total_bytes: int
    capacity_bytes: int
    held_bytes: int = 0
    outside_bytes: int = 0
    available_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class DeviceAmount:
    """Memory of one device."""

    device: str
    reserved_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Memory promised to one run."""

    run: str
    state: ReservationState
    amounts: tuple[DeviceAmount, ...]
    spec_sha256: str
    create_time: datetime | None = None
    expire_time: datetime | None = None
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A node's signed word that a run may start."""

    token: str
    run: str
    node: str
    amounts: tuple[DeviceAmount, ...]
    device: DeviceKind
    spec_sha256: str
    start_from: Checkpoint | None = None
    expire_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine as its hardware service sees it at `observe_time`."""

    name: str
    state: NodeState | None
    state_reason: str = ""
    boot_id: str = ""
    address: str = ""
    trainer_address: str = ""
    system: SystemInfo | None = None
    cpu: Cpu | None = None
    gpus: tuple[Gpu, ...] = ()
    software: Software | None = None
    devices: tuple[Device, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    observe_time: datetime | None = None
    version: str = ""
    problems: tuple[str, ...] = ()
