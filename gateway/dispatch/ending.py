"""The end of an attempt, and what follows for its job. All of it happens in the caller's transaction."""

from datetime import datetime, timedelta

from gateway.audit.records import Outcome
from gateway.dispatch.runs import StateChanged
from gateway.jobs.job import Attempt, Condition, Job, now
from gateway.jobs.states import ConditionType, JobState, RunState
from gateway.ledger import attempts
from gateway.ledger.audit import record_outcome
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import move
from gateway.ledger.nodes import get_node
from gateway.nodes.wire import product_of
from services.common.failures import Failure

_LONGEST_PAUSE_S = 60.0
_HOST = "host"


async def end_attempt(tx: Transaction, job: Job, attempt: Attempt, end: StateChanged) -> None:
    """Write down how an attempt ended, and take its job to where that leads."""
    moment = end.time or now()
    failure = end.failure
    if end.state in (RunState.FAILED, RunState.LOST) and failure is None:
        failure = _unexplained(attempt)
    values = {"state": end.state, "failure": failure, "peaks": end.peaks, "end_time": moment}
    await attempts.update_attempt(tx, attempt, **values)
    await _record_outcome(tx, job, attempt, end, moment)
    # First, also for a job that is being cancelled: what is done is not thrown away.
    if end.state is RunState.SUCCEEDED:
        await _succeed(tx, job, end, moment)
    elif job.state is JobState.CANCELLING:
        await move(tx, job, JobState.CANCELLED)
    elif end.state is RunState.FAILED:
        await move(tx, job, JobState.FAILED, failure=failure)
    elif failure is None:
        await requeue(tx, job, f"attempt {attempt.attempt} left {attempt.node}, which is drained")
    else:
        await _retry(tx, job, attempt, failure)


async def requeue(tx: Transaction, job: Job, why: str, *, not_before: datetime | None = None) -> None:
    """Queue a job for its next attempt."""
    condition = Condition.of(ConditionType.RETRYING, f"{why}; it goes on as attempt {job.attempt + 1}")
    await move(tx, job, JobState.QUEUED, conditions=(condition,), not_before=not_before, progress=None)


async def _succeed(tx: Transaction, job: Job, end: StateChanged, moment: datetime) -> None:
    ttl_s = job.artifact_ttl_s
    expire_time = None if ttl_s is None else moment + timedelta(seconds=ttl_s)
    made = {"artifact": end.artifact, "artifact_digest": end.artifact_digest, "expire_time": expire_time}
    await move(tx, job, JobState.SUCCEEDED, **made)


async def _retry(tx: Transaction, job: Job, attempt: Attempt, failure: Failure) -> None:
    losses = await attempts.count_losses(tx, job)
    if attempt.start_time is not None and losses > job.retry_limit:
        await move(tx, job, JobState.FAILED, failure=_exhausted(job, losses, failure))
        return
    pause_s = 0.0 if attempt.start_time is not None else await _pause_s(tx, job)
    not_before = now() + timedelta(seconds=pause_s) if pause_s else None
    await requeue(tx, job, f"attempt {attempt.attempt} was lost: {failure.message}", not_before=not_before)


async def _pause_s(tx: Transaction, job: Job) -> float:
    """Return how long to wait after attempts that ended before they trained: they cost no retry."""
    unstarted = 0
    for attempt in reversed(await attempts.attempts_of(tx, job.id)):
        if attempt.start_time is not None:
            break
        unstarted += 1
    return float(min(_LONGEST_PAUSE_S, 2 ** (unstarted - 2))) if unstarted > 1 else 0.0


def _exhausted(job: Job, losses: int, last: Failure) -> Failure:
    message = (
        f"{losses} attempts were lost and the retry limit is {job.retry_limit}; the last one: {last.message}"
    )
    return Failure(
        reason="RETRIES_EXHAUSTED",
        message=f"{message}; resume the job to go on from its last checkpoint",
        metadata={"attempts": str(losses), "retry_limit": str(job.retry_limit)},
    )


def _unexplained(attempt: Attempt) -> Failure:
    message = f"the process of {attempt.run} vanished without an outcome"
    return Failure(reason="WORKER_LOST", message=message, metadata={"run": attempt.run})


async def _record_outcome(
    tx: Transaction, job: Job, attempt: Attempt, end: StateChanged, moment: datetime
) -> None:
    on_host = attempt.device != "cuda"
    peaks = [peak for peak in end.peaks if (peak.device == _HOST) == on_host]
    node = await get_node(tx, attempt.node)
    if not peaks or node is None:
        return
    # Devices share the work evenly; the prediction is for the one that needs most.
    highest = max(peaks, key=lambda peak: peak.peak_bytes)
    outcome = Outcome(
        project=job.project,
        run=attempt.run,
        node=attempt.node,
        model_type=job.model_type,
        task=job.task,
        device=attempt.device,
        method=attempt.method,
        predicted_bytes=attempt.predicted_bytes,
        measured_bytes=highest.peak_bytes,
        product=product_of(node.snapshot, highest.device),
        end_time=moment,
    )
    await record_outcome(tx, outcome)
