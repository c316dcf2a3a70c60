"""All runs of this trainer: what TrainerService asks for, in the terms of runs."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from weakref import WeakValueDictionary

from services.common.context import spawn
from services.common.errors import ApprovalRefused, NotFound, PeerUnavailable, WrongState
from services.common.lease import boot_id
from services.common.names import parse_run
from services.common.pages import decode_token, encode_token
from services.common.spec_wire import parse_resolved
from services.trainer.approvals import Claims, check_approval, check_in_time
from services.trainer.engines.engine import WorkerState
from services.trainer.finishing import finished
from services.trainer.node import Approval, Reservation, ReservationState
from services.trainer.runs.directory import RunDirectory, RunRecord, RunsRoot, StopIntent, StopReason
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.failing import START_REFUSED
from services.trainer.runs.journal import first_line
from services.trainer.runs.logs import LogLine, stream_lines
from services.trainer.runs.records import FINAL, Run, RunEvent, RunState, StateChange
from services.trainer.runs.shared import Shared
from services.trainer.runs.supervisor import DEFAULT_GRACE_S, Supervisor

log = logging.getLogger(__name__)

# After a defect or a full disk: the run's task begins again, and what is on disk tells it where.
_AGAIN_S = 5.0
_PAGE_SHAPE = {"time": float, "run": str}
_PAGE_SCOPE = "runs"


@dataclass
class _Handle:
    """What is kept of one run. The supervisor is renewed when its task fails; the rest stays."""

    directory: RunDirectory
    events: EventLog
    supervisor: Supervisor | None = None
    task: asyncio.Task[None] | None = None


class Runs:
    """The runs whose directories are below one root."""

    def __init__(self, root: RunsRoot, shared: Shared) -> None:
        self._root = root
        self._shared = shared
        self._handles: dict[str, _Handle] = {}
        # Start, cancel and delete of one job's runs exclude each other.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def adopt(self) -> None:
        """Find the runs that are on disk, and see those through that need it.

        One that cannot be read counts as lost: what its node holds for it is given back.
        """
        for name, directory in await asyncio.to_thread(lambda: list(self._root.scan())):
            try:
                handle = _Handle(directory, await asyncio.to_thread(EventLog.open, directory))
            except (OSError, ValueError) as error:
                log.error("a run cannot be read", extra={"run": name, "error": str(error)})
                continue
            self._handles[name] = handle
            if not directory.released_file.exists():
                self._supervise(handle)

    async def start(self, run: str, approval: Approval | None, spec: bytes, project: str, node: str) -> Run:
        """Start an approved run and return it once its reservation is active. Idempotent.

        Raises:
            ApprovalRefused: it is not exactly what `node`, this trainer's, has approved.
            StaleAttempt: the attempt, or a later one of its job, is over here.
            InvalidRequest: `spec` is no resolved spec.
            PeerUnavailable: the node cannot be asked now. The run waits for it; to wait too, call again. Or
                the node's lease has ended, and nothing begins until the gateway is heard of again.
        """
        # Before anything is looked up: who cannot show an approval does not learn which runs there are.
        token, claims = check_approval(approval, run, node, spec)
        if self._shared.lease.ended:
            raise PeerUnavailable("the gateway")
        handle = await finished(self._begin(claims, token, spec, project))
        # A run that ended before the last restart has no supervisor, and no answer to wait for.
        if handle.supervisor is not None:
            await handle.supervisor.activation.answered()
        return _unless_refused(await handle.events.run())

    async def get(self, name: str) -> Run:
        """Return a run. Raises NotFound."""
        return await self._handle(name).events.run()

    async def page(self, size: int, token: str) -> tuple[list[Run], str]:
        """Return some runs, newest first, and the token of the next page; empty after the last.

        Raises:
            InvalidCursor: the token is not one of `page`.
        """
        before = None
        if token:
            position = decode_token(token, _PAGE_SHAPE, _PAGE_SCOPE)
            before = (position["time"], position["run"])
        ranked = sorted(((_rank(handle), handle) for handle in self._handles.values()), reverse=True)
        found = [(rank, handle) for rank, handle in ranked if before is None or rank < before]
        # Only the page's journals are read: those of old runs have not been until now.
        runs = [await handle.events.run() for _, handle in found[:size]]
        if len(found) <= size:
            return runs, ""
        time_s, run = found[size - 1][0]
        return runs, encode_token({"time": time_s, "run": run}, _PAGE_SCOPE)

    def watch(self, name: str, cursor: str) -> AsyncIterator[RunEvent]:
        """Yield a run's events after the cursor until its last. Raises NotFound, and InvalidCursor."""
        return self._handle(name).events.watch(cursor)

    def log_lines(self, name: str, offset: int, follow: bool) -> AsyncIterator[list[LogLine]]:
        """Yield what a run's worker printed from a byte on, some lines at a time. Raises NotFound."""
        handle = self._handle(name)
        return stream_lines(handle.directory.log_file, offset, follow, lambda: handle.events.ended)

    async def cancel(self, name: str, grace_s: float = DEFAULT_GRACE_S) -> Run:
        """Write down that the run is to stop or, where there is none, that it must not start. Idempotent."""
        return await finished(self._cancel(name, grace_s))

    async def delete(self, name: str) -> None:
        """Remove an ended run. Idempotent. Raises WrongState while it lives."""
        await finished(self._delete(name))

    async def reconcile(self, reservations: Iterable[Reservation]) -> None:
        """Give back what the node holds as active for runs that have ended here, or of which nothing is left.

        A start in flight is neither: its run is on disk before its reservation becomes active.
        """
        for reservation in reservations:
            handle = self._handles.get(reservation.run)
            if reservation.state is not ReservationState.ACTIVE or (handle and not handle.events.ended):
                continue
            if handle is None:
                log.warning("releasing a run that is unknown here", extra={"run": reservation.run})
                lost = self._root.directory(*parse_run(reservation.run))
                # Its directory may be lost and its process not. One that does not die keeps its memory.
                if not await asyncio.to_thread(self._shared.engine.kill, lost):
                    continue
                await asyncio.to_thread(self._shared.engine.forget, lost)
            await self._shared.node.release(reservation.run)

    def living(self) -> list[RunDirectory]:
        """Return the directories of the runs that are not over."""
        return [handle.directory for handle in self._handles.values() if not handle.events.ended]

    async def close(self) -> None:
        """Stop watching; the workers go on."""
        await asyncio.gather(*(_stop(handle) for handle in self._handles.values()))

    def stop_at_lease_end(self) -> None:
        """Stop every live run, whose next attempt goes on elsewhere, once the node's lease has ended."""
        if self._shared.lease.ended:
            for handle in self._handles.values():
                if handle.supervisor is not None and not handle.events.ended:
                    handle.supervisor.stop.end(DEFAULT_GRACE_S)

    async def end_workers(self, grace_s: float) -> None:
        """End the workers of all runs, whose next attempt goes on from their last checkpoint."""
        engine = self._shared.engine
        living = self.living()
        for directory in living:
            await asyncio.to_thread(engine.terminate, directory)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                for directory in living:
                    await self._gone(directory)
        for directory in living:
            await asyncio.to_thread(engine.kill, directory)

    async def _gone(self, directory: RunDirectory) -> None:
        state = self._shared.engine.state
        while await asyncio.to_thread(state, directory) is WorkerState.LIVING:  # noqa: ASYNC110
            await asyncio.sleep(self._shared.pace.tick_s)

    async def _begin(self, claims: Claims, token: str, spec: bytes, project: str) -> _Handle:
        async with self._lock(claims.run):
            handle = self._handles.get(claims.run)
            if handle is None:
                return await self._accept(claims, token, spec, project)
            await self._renew(handle, claims, token)
            return handle

    async def _cancel(self, name: str, grace_s: float) -> Run:
        async with self._lock(name):
            # Known or not: a run that is deleted after this must not be started by a late repeat.
            await asyncio.to_thread(self._shared.tombstones.bury, name)
            handle = self._handles.get(name)
        if handle is None:
            return Run(name=name, state=RunState.CANCELLED)
        if handle.supervisor is not None and not handle.events.ended:
            await handle.supervisor.stop.ask(StopIntent(reason=StopReason.REQUEST, grace_s=grace_s))
            await handle.events.append(StateChange(state=RunState.CANCELLING))
        return await handle.events.run()

    async def _delete(self, name: str) -> None:
        async with self._lock(name):
            handle = self._handles.get(name)
            if handle is None:
                return
            run = await handle.events.run()
            if run.state not in FINAL:
                raise WrongState(name, run.state, ", ".join(sorted(FINAL)))
            await asyncio.to_thread(self._shared.tombstones.bury, name)
            # It may still try to release: from now on `reconcile` sees to that.
            await _stop(handle)
            await handle.events.close()
            await asyncio.to_thread(self._root.remove, handle.directory)
            del self._handles[name]

    async def _accept(self, claims: Claims, token: str, spec: bytes, project: str) -> _Handle:
        """Write a new run down."""
        # Of a new run only: a repeat of a start that was in time may come late.
        check_in_time(claims)
        await asyncio.to_thread(self._shared.tombstones.check, claims.run)
        parse_resolved(spec)
        now = datetime.now(UTC)
        record = RunRecord(
            run=claims.run,
            project=project,
            spec_sha256=claims.spec_sha256,
            device=claims.device,
            amounts=claims.device_amounts(),
            predicted_bytes=claims.training_bytes(),
            start_from=claims.start_from,
            create_time=now,
            boot_id=boot_id(),
        )
        # The journal is born with the directory: a run always has a state.
        journal = first_line(now.timestamp(), StateChange(state=RunState.ACCEPTED))
        directory = await asyncio.to_thread(self._root.create, record, spec, token, journal)
        handle = _Handle(directory, await asyncio.to_thread(EventLog.open, directory))
        self._handles[claims.run] = handle
        self._supervise(handle)
        return handle

    async def _renew(self, handle: _Handle, claims: Claims, token: str) -> None:
        """Take a fresh approval for a run that still waits for its activation."""
        run, record = await handle.events.run(), handle.events.record
        if claims.spec_sha256 != record.spec_sha256:
            raise ApprovalRefused(run.name, "the run was started with another spec")
        if run.state is not RunState.ACCEPTED:
            return
        # A fresh approval of the same reservation differs in nothing but its expiry.
        if (claims.device_amounts(), claims.device, claims.start_from) != (
            record.amounts,
            record.device,
            record.start_from,
        ):
            raise ApprovalRefused(run.name, "the run was accepted with another approval")
        await asyncio.to_thread(handle.directory.write_approval, token)

    def _supervise(self, handle: _Handle) -> None:
        # Deleted while its task was about to begin again.
        if self._handles.get(handle.events.record.run) is not handle:
            return
        handle.supervisor = Supervisor(handle.directory, handle.events, self._shared)
        handle.task = spawn(handle.supervisor.supervise(), handle.events.record.run)
        handle.task.add_done_callback(functools.partial(self._supervised, handle))

    def _supervised(self, handle: _Handle, task: asyncio.Task[None]) -> None:
        run = handle.events.record.run
        if task.cancelled() or task.exception() is None:
            return
        log.error("a run's task failed and begins again", extra={"run": run}, exc_info=task.exception())
        if handle.supervisor is not None:
            handle.supervisor.activation.settle()
        asyncio.get_running_loop().call_later(_AGAIN_S, self._supervise, handle)

    def _handle(self, name: str) -> _Handle:
        parse_run(name, "name")
        handle = self._handles.get(name)
        if handle is None:
            raise NotFound(name)
        return handle

    def _lock(self, run: str) -> asyncio.Lock:
        return self._locks.setdefault(parse_run(run)[0], asyncio.Lock())


async def _stop(handle: _Handle) -> None:
    if handle.task is not None:
        handle.task.cancel()
        await asyncio.wait([handle.task])


def _rank(handle: _Handle) -> tuple[float, str]:
    return handle.events.record.create_time.timestamp(), handle.events.record.run


def _unless_refused(run: Run) -> Run:
    """Return the run; raise ApprovalRefused where its node refused it, each time it is started again."""
    if run.failure is not None and run.failure.reason == START_REFUSED:
        raise ApprovalRefused(run.name, run.failure.metadata.get("detail", ""))
    return run
