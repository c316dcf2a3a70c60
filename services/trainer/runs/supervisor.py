"""One run's task: brings it from wherever it stands to its end.

Everything it knows is on disk, so a service that comes back, or a task that failed, begins again at the top
and finds its place: activate, fetch the inputs, spawn, watch, publish, release.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from services.common.errors import ServiceError
from services.common.failures import Failure
from services.common.lease import boot_id
from services.common.specs import ResolvedSpec
from services.trainer.engines.engine import WorkerEnd
from services.trainer.environment import worker_environment
from services.trainer.runs.activation import Activation
from services.trainer.runs.directory import RunDirectory, StopIntent, StopReason
from services.trainer.runs.ending import as_asked, concluded, read_outcome, read_usage
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.failing import (
    RunFails,
    describe_exit,
    lease_ended,
    max_duration_exceeded,
    memory_overrun,
    worker_lost,
)
from services.trainer.runs.inputs import Inputs, input_digests
from services.trainer.runs.locks import close_claim, is_claimed
from services.trainer.runs.publishing import Publisher
from services.trainer.runs.records import RunState, StateChange
from services.trainer.runs.shared import Shared
from services.trainer.runs.stopping import Stop
from services.trainer.runs.watching import Watch

log = logging.getLogger(__name__)

DEFAULT_GRACE_S = 30.0
_RELEASE_PAUSE_LIMIT_S = 30.0


class Supervisor:
    """Sees one run through."""

    def __init__(self, directory: RunDirectory, events: EventLog, shared: Shared) -> None:
        self._directory = directory
        self._events = events
        self._shared = shared
        self._run = events.record.run
        # A lock that nobody holds says so too, but not which of the two happened.
        self._rebooted = events.record.boot_id != boot_id()
        self._released = False
        self.stop = Stop(directory)
        self.activation = Activation(directory, events.record, shared.node, shared.pace.retry_s)
        self._publisher = Publisher(directory, events, shared.store, shared.transfers, shared.pace.retry_s)

    async def supervise(self) -> None:
        """Bring the run to its end, tell about it, and give its memory back."""
        if self._events.ended:
            self.activation.settle()
        else:
            spec = await asyncio.to_thread(self._directory.spec)
            # Until the worker is gone: it reads its inputs as long as it lives.
            async with self._shared.cache.pinned(input_digests(spec, self._events.record.start_from)):
                change = await self._live(spec)
            await self._end(change, spec)
        await asyncio.to_thread(self._shared.engine.forget, self._directory)
        await asyncio.to_thread(self._directory.drop_outputs)
        await self._release()

    async def _live(self, spec: ResolvedSpec) -> StateChange:
        """Return the state in which the run ends, were it not asked to stop."""
        limiting = asyncio.create_task(self._limit_duration(_limit_s(spec)))
        try:
            return await self._run_through(spec)
        except RunFails as failure:
            return StateChange(state=RunState.FAILED, failure=failure.failure)
        finally:
            limiting.cancel()
            # What it had not published is found again by whoever comes next.
            await self._publisher.stop()

    async def _run_through(self, spec: ResolvedSpec) -> StateChange:
        await self._publisher.recover()
        watch = Watch(self._directory, self._events, self._shared, self._publisher, self.stop)
        env = None
        # No process outlives the machine's boot, and a run that was asked to stop does not start.
        if not (self._rebooted or self.stop.asked.is_set()):
            refusal = await self._activate()
            if refusal is not None:
                return StateChange(state=RunState.LOST, failure=refusal)
            # Unclaimed: never started, or spawned by a service that died since. Both get a worker; one runs.
            if not await asyncio.to_thread(is_claimed, self._directory.claim):
                env = await self._prepared(spec)
        await watch.until_gone(env)
        await self._publisher.found_all()
        await self._publisher.finish(self._shared.pace.publish_patience_s)
        return await self._conclusion()

    async def _activate(self) -> Failure | None:
        run = await self._events.run()
        # The state is the only note of it. Between the node's answer and this event a crash asks again.
        if run.state is not RunState.ACCEPTED:
            self.activation.settle()
            return None
        refusal = await self.activation.carry_out(self.stop)
        if refusal is None:
            await self._events.append(StateChange(state=RunState.STARTING))
        return refusal

    async def _prepared(self, spec: ResolvedSpec) -> dict[str, str] | None:
        """Bring the inputs here and return the worker's environment. None: the run is to stop."""
        inputs = Inputs(self._shared.cache, self._shared.model_root, self._shared.pace.retry_s)
        if not self.stop.asked.is_set():
            await self._unless_asked_to_stop(inputs.materialise(self._directory, self._events))
        if self.stop.asked.is_set():
            return None
        # Used up, and nothing that a worker should find.
        await asyncio.to_thread(self._directory.approval_file.unlink, missing_ok=True)
        return await asyncio.to_thread(
            worker_environment, self._events.record, spec, self._shared.secrets_dir
        )

    async def _unless_asked_to_stop(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(work), asyncio.create_task(self.stop.asked.wait())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _limit_duration(self, limit_s: float | None) -> None:
        if limit_s is not None:
            # Counted on the wall clock across restarts only: within one it does not jump.
            passed_s = max(0.0, time.time() - self._events.record.create_time.timestamp())
            intent = StopIntent(reason=StopReason.MAX_DURATION, grace_s=DEFAULT_GRACE_S)
            await self.stop.ask_after(max(0.0, limit_s - passed_s), intent)

    async def _conclusion(self) -> StateChange:
        outcome = await asyncio.to_thread(read_outcome, self._directory)
        end = await asyncio.to_thread(self._shared.engine.end, self._directory)
        change = concluded(outcome, self._lost(end), self._overrun(end))
        if change.state is RunState.SUCCEEDED and outcome is not None and outcome.artifact:
            change = replace(change, artifact=await self._publisher.artifact())
        # A worker that vanished has said at least what it used a second before.
        said = outcome.peaks if outcome is not None else ()
        return replace(change, peaks=said or await asyncio.to_thread(read_usage, self._directory))

    def _overrun(self, end: WorkerEnd) -> Failure | None:
        record = self._events.record
        limit_bytes = next((each.reserved_bytes for each in record.amounts if each.device == "host"), None)
        if limit_bytes is None or not end.out_of_memory:
            return None
        return memory_overrun("host", record.predicted_bytes, limit_bytes)

    def _lost(self, end: WorkerEnd) -> Failure:
        intent = self.stop.intent
        # Either: the worker looks at the lease too, and may be gone before it is asked.
        if self._shared.lease.ended or (intent is not None and intent.reason is StopReason.NODE_LEASE):
            return lease_ended(self._run)
        how = end.detail or describe_exit(end.status)
        if self._rebooted:
            how = "the machine was restarted"
        return worker_lost(self._run, how)

    async def _end(self, change: StateChange, spec: ResolvedSpec) -> None:
        """Make sure that nothing of the run is left, and tell its final state."""
        # Also after a failure before the spawn: an earlier service may have spawned, and that worker be slow.
        while not await asyncio.to_thread(close_claim, self._directory.claim):
            await asyncio.to_thread(self._shared.engine.kill, self._directory)
        await asyncio.to_thread(self._shared.tombstones.bury, self._run)
        # Before the final event: whoever sees that finds the memory free, unless the node was away.
        self._released = await self._try_to_release()
        over = max_duration_exceeded(_limit_s(spec) or 0.0)
        while not self._events.ended:
            # A request may come in between: then the state is looked at again.
            intent = self.stop.intent
            if intent is not None and intent.reason is StopReason.REQUEST:
                await self._events.append(StateChange(state=RunState.CANCELLING))
            await self._events.append(as_asked(change, intent, over))
        # Not before: whoever started it and is refused must find the run ended.
        self.activation.settle()

    async def _release(self) -> None:
        pause_s = self._shared.pace.retry_s
        while not (self._released or await self._try_to_release()):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _RELEASE_PAUSE_LIMIT_S)
        await asyncio.to_thread(self._directory.mark_released)

    async def _try_to_release(self) -> bool:
        try:
            await self._shared.node.release(self._run)
        except ServiceError as error:
            log.warning("not released yet", extra={"run": self._run, "error": str(error)})
            return False
        return True


def _limit_s(spec: ResolvedSpec) -> float | None:
    return None if spec.spec.scheduling is None else spec.spec.scheduling.max_duration_s
