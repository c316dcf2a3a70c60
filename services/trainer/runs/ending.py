"""How a run ended, from what its worker left and from what was asked of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from services.common.failures import Failure
from services.trainer.runs.directory import RunDirectory, StopIntent, StopReason
from services.trainer.runs.failing import broken_promise
from services.trainer.runs.records import DevicePeak, RunState, StateChange


class OutcomeState(StrEnum):
    """How the worker says that it ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The worker's last word: `outcome.json`."""

    state: OutcomeState
    failure: Failure | None = None
    artifact: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    peaks: tuple[DevicePeak, ...] = ()


_OUTCOME = TypeAdapter(Outcome)
_PEAKS = TypeAdapter(tuple[DevicePeak, ...])


def read_outcome(directory: RunDirectory) -> Outcome | None:
    """Return the worker's last word. None: it left none. Blocks."""
    if not directory.outcome_file.exists():
        return None
    try:
        return _OUTCOME.validate_python(directory.read_json(directory.outcome_file))
    except ValidationError as error:
        failure = broken_promise("InvalidOutcome", f"the worker's outcome cannot be read: {error}")
        return Outcome(state=OutcomeState.FAILED, failure=failure)


def read_usage(directory: RunDirectory) -> tuple[DevicePeak, ...]:
    """Return what the worker last said that it uses. Blocks."""
    try:
        return _PEAKS.validate_python(directory.read_json(directory.usage_file) or ())
    except ValidationError:
        return ()


def concluded(outcome: Outcome | None, lost: Failure, overrun: Failure | None = None) -> StateChange:
    """Return the final state of a run whose process is gone, were it not asked to stop.

    `lost` is why it is lost when it left no outcome, or stopped without being asked to, where it does not
    know better; `overrun` why it has failed where the system has killed a process of it at its memory limit.
    """
    # Also when the worker had a word: that a loader's process is gone, it takes for an error of its own.
    if overrun is not None and (outcome is None or outcome.state is OutcomeState.FAILED):
        said = outcome.failure if outcome is not None else None
        exact = said is not None and said.reason == overrun.reason
        return StateChange(state=RunState.FAILED, failure=said if exact else overrun)
    # Stopped by somebody else, such as an administrator: nobody wanted the job to end.
    if outcome is None or outcome.state is OutcomeState.CANCELLED:
        return StateChange(state=RunState.LOST, failure=lost)
    if outcome.state is OutcomeState.SUCCEEDED:
        return StateChange(state=RunState.SUCCEEDED)
    # One of its processes vanished: as good a reason to go on as another attempt as if it were the only one.
    if outcome.failure is not None and outcome.failure.reason == lost.reason:
        return StateChange(state=RunState.LOST, failure=outcome.failure)
    unnamed = broken_promise("InvalidOutcome", "the worker failed and did not say why; its log may")
    return StateChange(state=RunState.FAILED, failure=outcome.failure or unnamed)


def as_asked(change: StateChange, intent: StopIntent | None, over: Failure) -> StateChange:
    """Return the final state of a run that may have been asked to stop; a success that came first stays one.

    `over` is why a run fails that was stopped because it ran too long.
    """
    if intent is None or intent.reason is StopReason.NODE_LEASE or change.state is RunState.SUCCEEDED:
        return change
    # Whatever it met on the way out: who cancels a job is not told that it failed.
    if intent.reason is StopReason.REQUEST:
        return StateChange(state=RunState.CANCELLED)
    return StateChange(state=RunState.FAILED, failure=over)
