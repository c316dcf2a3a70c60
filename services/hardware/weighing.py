"""What a job needs and what a node says to it: 1:1 with weighbridge.hardware.v1."""

from dataclasses import dataclass
from enum import StrEnum

from services.common.specs import DeviceKind
from services.hardware.resources import DeviceAmount


class EstimateMethod(StrEnum):
    """How an estimate was found."""

    ANALYTIC = "analytic"
    EXECUTED = "executed"


class MemoryPartKind(StrEnum):
    """What memory is for."""

    WEIGHTS = "weights"
    ADAPTERS = "adapters"
    GRADIENTS = "gradients"
    OPTIMIZER = "optimizer"
    ACTIVATIONS = "activations"
    LOGITS = "logits"
    WORKSPACE = "workspace"
    REFERENCE = "reference"
    DATA = "data"
    CACHE = "cache"


class Decision(StrEnum):
    """What follows from weighing."""

    ADMIT = "admit"
    WAIT = "wait"
    REJECT = "reject"


class LimitKind(StrEnum):
    """A kind of limit."""

    GPU_MEMORY = "gpu_memory"
    HOST_MEMORY = "host_memory"
    DISK = "disk"
    DEVICE_COUNT = "device_count"
    CAPABILITY = "capability"
    NODE_STATE = "node_state"


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """One kind of memory in an estimate."""

    kind: MemoryPartKind
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """The peak on one device."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    context_bytes: int
    margin_bytes: int
    low_bytes: int = 0
    high_bytes: int = 0
    parts: tuple[MemoryPart, ...] = ()

    @property
    def needed_bytes(self) -> int:
        """What a job has to be promised."""
        return self.peak_reserved_bytes + self.context_bytes + self.margin_bytes


@dataclass(frozen=True, kw_only=True)
class PlacementEstimate:
    """The need on one kind of device; `gpu` is what each of `device_count` GPUs has to give."""

    device: DeviceKind
    device_count: int
    gpu: MemoryEstimate | None
    host: MemoryEstimate | None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will need, one placement for each kind of device that its spec allows."""

    method: EstimateMethod | None
    placements: tuple[PlacementEstimate, ...]
    disk_bytes: int = 0
    parameter_count: int = 0
    trainable_parameter_count: int = 0
    assumptions: tuple[str, ...] = ()
    compute_time_s: float | None = None
    remedy: str = ""
    """What would make it need less memory, to end a sentence with. Empty: what helps a training."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Somebody who has memory of a device."""

    holder: str
    reserved_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class LimitCheck:
    """One limit held against one need."""

    kind: LimitKind
    subject: str
    satisfied: bool
    within_capacity: bool
    needed_bytes: int = 0
    available_bytes: int = 0
    capacity_bytes: int = 0
    holders: tuple[Holder, ...] = ()
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a job fits one node, and why not."""

    node: str
    decision: Decision
    summary: str
    limits: tuple[LimitCheck, ...] = ()
    warnings: tuple[str, ...] = ()
    device: DeviceKind | None = None
    amounts: tuple[DeviceAmount, ...] = ()
