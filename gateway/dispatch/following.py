"""A run's events, read from its trainer and kept in the ledger together with how far they were read."""

import logging
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

from gateway.dispatch.checkpoints import commit
from gateway.dispatch.ending import end_attempt
from gateway.dispatch.holding import TreeKeeper
from gateway.dispatch.peers import Trainers
from gateway.dispatch.reign import Reign
from gateway.dispatch.runs import (
    Checkpointed,
    Evaluated,
    Noticed,
    Prepared,
    Progressed,
    RunEvent,
    StateChanged,
)
from gateway.jobs.job import Attempt, Condition, Job, LiveProgress, now
from gateway.jobs.jobs import artifact_owner, checkpoint_owner
from gateway.jobs.states import ENDED, LIVE, ConditionType, JobState, RunState
from gateway.ledger import attempts
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.events import append_event, job_topic, newest_seq
from gateway.ledger.jobs import change, get_job, move, set_conditions
from services.common.errors import PeerUnavailable, ServiceError
from services.common.failures import Failure
from services.common.store import BlobStore

log = logging.getLogger(__name__)

# Progress is worth a write a second: the rest of it only passes by.
_PROGRESS_S = 1.0
_CONDITIONS = {
    "importing": (ConditionType.BUILDING, "libraries are imported"),
    "fetching_data": (ConditionType.FETCHING_DATA, "the data set is fetched"),
    "fetching_weights": (ConditionType.DOWNLOADING_WEIGHTS, "weights are fetched"),
    "building": (ConditionType.BUILDING, "the model is built"),
}


class Follower:
    """Follows one attempt's run. What it reads twice after a crash it keeps once."""

    def __init__(
        self, reign: Reign, trainers: Trainers, store: BlobStore, sweep_delay_s: float, attempt: Attempt
    ) -> None:
        self._reign = reign
        self._sweep_delay = timedelta(seconds=sweep_delay_s)
        self._trainers = trainers
        self._keeper = TreeKeeper(reign, store, attempt.job)
        self._attempt = attempt
        self._progress_time = 0.0
        # Number of the newest event that this has kept: progress comes after it.
        self._seq = 0

    @property
    def run(self) -> str:
        """The run that is followed."""
        return self._attempt.run

    async def follow(self, address: str) -> StateChanged:
        """Keep events until the run has ended; returns its end, which is not kept yet.

        Raises:
            NotFound: the trainer knows no such run.
            PeerUnavailable: it went away.
            Moved: the attempt is over for the ledger.
        """
        async for event in self._trainers.watch_run(address, self._attempt.run, self._attempt.cursor):
            if isinstance(event.what, StateChanged) and event.what.state in ENDED:
                return event.what
            await self._take(event)
        raise PeerUnavailable(address)

    async def end(self, end: StateChanged) -> None:
        """Keep the end of the run."""
        if end.state is RunState.SUCCEEDED and end.artifact_digest:
            fault = await self._keeper.hold(artifact_owner(self._attempt.job), end.artifact_digest)
            if fault is not None:
                end = StateChanged(RunState.FAILED, _unreadable(end.artifact_digest, fault), peaks=end.peaks)

        async def work(tx: Transaction) -> None:
            job, attempt = await self._current(tx)
            await end_attempt(tx, job, attempt, end)

        await self._reign.write(work)

    async def _take(self, event: RunEvent) -> None:
        what = event.what
        passing = isinstance(what, Progressed) and self._passes_by(what)
        if isinstance(what, Checkpointed) and not await self._is_whole(what):
            return

        async def work(tx: Transaction) -> int:
            # Event and cursor in one transaction: after a crash an event was kept or comes again, never both.
            job, attempt = await self._current(tx)
            await self._keep(tx, job, attempt, event)
            await attempts.update_attempt(tx, attempt, cursor=event.cursor)
            return await newest_seq(tx, job.id)

        if not passing:
            self._seq = await self._reign.write(work)
        # A stream that breaks is taken up here, and not where the ledger is: nobody sees progress twice.
        self._attempt = replace(self._attempt, cursor=event.cursor)

    def _passes_by(self, what: Progressed) -> bool:
        """Tell watchers of progress; return whether that is all."""
        live = LiveProgress(self._seq, what.message)
        self._reign.ledger.signals.publish(job_topic(self._attempt.job), live)
        if time.monotonic() - self._progress_time < _PROGRESS_S:
            return True
        self._progress_time = time.monotonic()
        return False

    async def _current(self, tx: Transaction) -> tuple[Job, Attempt]:
        """Return job and attempt, if the attempt is still the current one: the fence. Raises Moved."""
        job = await get_job(tx, self._attempt.job)
        if job is None or job.attempt != self._attempt.attempt or job.state not in LIVE:
            raise Moved(self._attempt.job)
        attempt = await attempts.current_attempt(tx, job)
        if attempt is None:
            raise Moved(self._attempt.job)
        return job, attempt

    async def _keep(self, tx: Transaction, job: Job, attempt: Attempt, event: RunEvent) -> None:
        what = event.what
        if isinstance(what, StateChanged):
            await _change_state(tx, job, attempt, what)
        elif isinstance(what, Prepared):
            if job.state is JobState.STARTING and what.phase in _CONDITIONS:
                await set_conditions(tx, job, (_condition(what),))
        elif isinstance(what, Progressed):
            await change(tx, job, progress=what.message)
        elif isinstance(what, Evaluated):
            await change(tx, job, metrics=what.metrics)
            await append_event(tx, job.id, attempt.attempt, "evaluation", what.message)
        elif isinstance(what, Noticed):
            await append_event(tx, job.id, attempt.attempt, "notice", what.message)
        else:
            await commit(tx, job, what, now() + self._sweep_delay)

    async def _is_whole(self, what: Checkpointed) -> bool:
        """Hold a checkpoint's blobs; return whether the store has all of them."""
        owner = checkpoint_owner(self._attempt.job, what.checkpoint)
        fault = await self._keeper.hold(owner, what.checkpoint.digest)
        if fault is not None:
            log.warning("checkpoint unreadable", extra={"run": self._attempt.run, "error": str(fault)})
        return fault is None


async def _change_state(tx: Transaction, job: Job, attempt: Attempt, what: StateChanged) -> None:
    # As its trainer saw it: after an outage the gateway hears of it late.
    moment = what.time or now()
    values: dict[str, Any] = {"state": what.state}
    if what.state is RunState.RUNNING:
        values["start_time"] = attempt.start_time or moment
    await attempts.update_attempt(tx, attempt, **values)
    if what.state is RunState.RUNNING and job.state is JobState.STARTING:
        await move(tx, job, JobState.RUNNING, start_time=job.start_time or moment)


def _condition(what: Prepared) -> Condition:
    kind, message = _CONDITIONS[what.phase]
    return Condition.of(kind, message, done_bytes=what.done_bytes, total_bytes=what.total_bytes)


def _unreadable(digest: str, error: ServiceError) -> Failure:
    message = f"the artifact {digest} cannot be read back from the store: {error}"
    return Failure(reason="FETCH_FAILED", message=message, metadata={"item": digest, "detail": str(error)})
