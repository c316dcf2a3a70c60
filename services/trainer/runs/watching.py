"""Keeping a run's worker company: spawn it, pass its events on, report what it uses, see it out."""

import asyncio
import contextlib
import logging
from itertools import islice

from services.common.errors import ServiceError
from services.trainer.engines.engine import WorkerState
from services.trainer.node import DeviceAmount
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.ending import read_usage
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.locks import close_claim
from services.trainer.runs.publishing import Publisher
from services.trainer.runs.records import Event
from services.trainer.runs.shared import Shared
from services.trainer.runs.stopping import Escort, Stop
from services.trainer.runs.workerevents import LocalCheckpoint, WorkerLine, read_worker_events

log = logging.getLogger(__name__)

# Workers that may die before they have claimed the run, until it counts as lost.
_SPAWNS = 3
# Lines that become durable together.
_BATCH = 500


class Watch:
    """Watches one run's worker."""

    def __init__(
        self,
        directory: RunDirectory,
        events: EventLog,
        shared: Shared,
        publisher: Publisher,
        stop: Stop,
    ) -> None:
        self._directory = directory
        self._events = events
        self._shared = shared
        self._publisher = publisher
        self._stop = stop
        self._escort = Escort(directory, shared.engine, stop)
        self._offset = events.last.worker_offset
        self._spawns_left = _SPAWNS

    async def until_gone(self, env: dict[str, str] | None) -> None:
        """Watch until no process of the run is left and none can start any more.

        A run that no worker has claimed gets one, with the environment `env`; None: it gets none.
        """
        reporting = asyncio.create_task(self._report_usage())
        try:
            # Polled: a file that grows and a lock that falls free wake nobody.
            while await self._look(env):  # noqa: ASYNC110
                await asyncio.sleep(self._shared.pace.tick_s)
        finally:
            reporting.cancel()
        # Children may outlive the leader: the devices are free only when they are gone too.
        while not await asyncio.to_thread(self._shared.engine.kill, self._directory):
            log.warning("a process of the run survives SIGKILL", extra={"run": self._events.record.run})
        await self._pass_events_on()

    async def _look(self, env: dict[str, str] | None) -> bool:
        """Do what is due now. Returns whether there is anything left to watch."""
        state = await asyncio.to_thread(self._shared.engine.state, self._directory)
        await self._pass_events_on()
        if state is WorkerState.LIVING:
            await asyncio.to_thread(self._attend)
            return True
        if state is WorkerState.ABSENT and env is not None and self._may_spawn():
            # Before it lives: the service may be gone in the next moment.
            await asyncio.to_thread(self._keep_alive)
            await asyncio.to_thread(self._shared.engine.spawn, self._directory, env)
            return True
        return not await asyncio.to_thread(close_claim, self._directory.claim)

    def _may_spawn(self) -> bool:
        self._spawns_left -= 1
        return self._spawns_left >= 0 and not self._stop.asked.is_set()

    def _attend(self) -> None:
        self._keep_alive()
        self._escort.attend()

    def _keep_alive(self) -> None:
        until_s = self._shared.lease.end_s
        if until_s != self._directory.keepalive_until():
            # A full disk: the next look tries again, and until then the worker knows an earlier end.
            with contextlib.suppress(OSError):
                self._directory.write_keepalive(until_s)

    async def _pass_events_on(self) -> None:
        while lines := await asyncio.to_thread(self._read):
            # A checkpoint is told of when it is in the store. Others do not wait for it: `recover` knows how
            # to find it again should the journal have passed its line.
            checkpoints = [line.event for line in lines if isinstance(line.event, LocalCheckpoint)]
            await self._events.append_each(_public(lines))
            self._offset = lines[-1].end
            for checkpoint in checkpoints:
                self._publisher.found(checkpoint)

    def _read(self) -> list[WorkerLine]:
        return list(islice(read_worker_events(self._directory.events_file, self._offset), _BATCH))

    async def _report_usage(self) -> None:
        """Tell the node what the run uses, as long as it is watched. A lost report matters little."""
        while True:
            peaks = await asyncio.to_thread(read_usage, self._directory)
            used = tuple(DeviceAmount(device=peak.device, used_bytes=peak.used_bytes) for peak in peaks)
            if used:
                try:
                    await self._shared.node.report_usage(self._events.record.run, used)
                except ServiceError as error:
                    log.info("usage not reported", extra={"error": str(error)})
            await asyncio.sleep(self._shared.pace.usage_s)


def _public(lines: list[WorkerLine]) -> list[tuple[Event, int]]:
    """Return the lines that become public as they are, each with the offset after it."""
    return [(line.event, line.end) for line in lines if not isinstance(line.event, LocalCheckpoint)]
