"""Runs and their events, as the gateway reads them."""

from dataclasses import dataclass, field
from datetime import datetime

from gateway.audit.records import DeviceAmount
from gateway.jobs.job import DevicePeak
from gateway.jobs.states import RunState
from gateway.packed import Packed
from gateway.weighing.verdict import NodeVerdict
from services.common.failures import Failure
from services.common.specs import Checkpoint


@dataclass(frozen=True)
class Approved:
    """A node's approval."""

    message: Packed
    """With its token: without a journal a node takes its promises from here."""
    device: str
    """The kind of device that trains, `cpu` or `cuda`."""
    amounts: tuple[DeviceAmount, ...]


@dataclass(frozen=True)
class Reserved:
    """A node's answer to Reserve."""

    verdict: NodeVerdict
    approval: Approved | None


@dataclass(frozen=True)
class StateChanged:
    """A run is in another state."""

    state: RunState
    failure: Failure | None = None
    artifact: Packed | None = None
    artifact_digest: str = ""
    peaks: tuple[DevicePeak, ...] = ()
    time: datetime | None = None
    """When its trainer saw it; None where the gateway itself decides."""


@dataclass(frozen=True)
class Progressed:
    """A run came further."""

    message: Packed


@dataclass(frozen=True)
class Evaluated:
    """An evaluation ended."""

    metrics: dict[str, float]
    message: Packed


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint is in the store; it counts once it is committed."""

    checkpoint: Checkpoint
    message: Packed


@dataclass(frozen=True)
class Noticed:
    """A remark."""

    message: Packed


@dataclass(frozen=True)
class Prepared:
    """Something that takes a while before the training."""

    phase: str
    done_bytes: int = 0
    total_bytes: int = 0


What = StateChanged | Progressed | Evaluated | Checkpointed | Noticed | Prepared


@dataclass(frozen=True)
class RunEvent:
    """Something that happened to a run."""

    cursor: str
    time: datetime
    what: What


@dataclass(frozen=True)
class Run:
    """A run as its trainer has it."""

    name: str
    state: RunState
    peaks: tuple[DevicePeak, ...] = field(default=())
