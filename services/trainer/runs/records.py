"""What a run is and what happens to it: 1:1 with weighbridge.trainer.v1, where every field is described."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.common.failures import Failure
from services.common.specs import Checkpoint, FileTree


class RunState(StrEnum):
    """Where a run stands."""

    ACCEPTED = "accepted"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.LOST})

_NEXT: Mapping[RunState, frozenset[RunState]] = {
    RunState.ACCEPTED: frozenset({RunState.STARTING, RunState.CANCELLING, RunState.FAILED, RunState.LOST}),
    # A worker may fail, and with nothing left to train succeed, before it trains.
    RunState.STARTING: FINAL - {RunState.CANCELLED} | {RunState.RUNNING, RunState.CANCELLING},
    RunState.RUNNING: FINAL - {RunState.CANCELLED} | {RunState.CANCELLING},
    RunState.CANCELLING: frozenset({RunState.CANCELLED, RunState.SUCCEEDED}),
}


def may_follow(state: RunState, new: RunState) -> bool:
    """Say whether a run in `state` may go to `new`."""
    return new in _NEXT.get(state, ())


class StartPhase(StrEnum):
    """What a run does before it trains."""

    IMPORTING = "importing"
    FETCHING_DATA = "fetching_data"
    FETCHING_WEIGHTS = "fetching_weights"
    BUILDING = "building"


class NoticeLevel(StrEnum):
    """How serious a notice is."""

    INFO = "info"
    WARNING = "warning"


@dataclass(frozen=True, kw_only=True)
class DevicePeak:
    """Memory of one device: a GPU's UUID, or `host`."""

    device: str
    used_bytes: int = 0
    peak_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is."""

    step: int
    total_steps: int = 0
    epoch: float = 0.0
    loss: float = 0.0
    learning_rate: float = 0.0
    grad_norm: float = 0.0
    examples_per_second: float = 0.0
    tokens_per_second: float = 0.0
    eta_s: float | None = None
    memory: tuple[DevicePeak, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The figures of one evaluation."""

    step: int
    epoch: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A remark of the run."""

    level: NoticeLevel = NoticeLevel.INFO
    message: str


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Progress before the training."""

    phase: StartPhase
    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """A new state."""

    state: RunState
    failure: Failure | None = None
    artifact: FileTree | None = None
    peaks: tuple[DevicePeak, ...] = ()


Event = StateChange | Progress | Evaluation | Checkpoint | Notice | Preparation


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """Something that happened to a run."""

    cursor: str
    time: datetime
    run: str
    event: Event


@dataclass(frozen=True, kw_only=True)
class Run:
    """One attempt of a job on this node."""

    name: str
    state: RunState
    spec_sha256: str = ""
    start_from: Checkpoint | None = None
    progress: Progress | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    artifact: FileTree | None = None
    failure: Failure | None = None
    peaks: tuple[DevicePeak, ...] = ()
    create_time: datetime | None = None
    end_time: datetime | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    phase: StartPhase | None = None
    cursor: str = ""
