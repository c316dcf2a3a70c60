"""One task for each job that needs one."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from gateway.ledger.dispatcher import Deposed

log = logging.getLogger(__name__)


class JobTasks:
    """Tasks by job id. One that failed of a defect is begun again after a pause; the others do not suffer."""

    def __init__(
        self, work: Callable[[str], Awaitable[None]], pause_s: float, *, cancel_others: bool
    ) -> None:
        self._work = work
        self._pause_s = pause_s
        self._cancel_others = cancel_others
        self._tasks: dict[str, asyncio.Future[None]] = {}
        self._not_before: dict[str, float] = {}

    def keep(self, job_ids: Iterable[str]) -> None:
        """See to it that these jobs have a task. Raises Deposed where a task found out."""
        wanted = list(job_ids)
        # An exception is looked at here, when the task is buried: one job's defect is not the others' end.
        for job_id in [job_id for job_id, task in self._tasks.items() if task.done()]:
            self._bury(job_id, self._tasks.pop(job_id))
        for job_id in wanted:
            if job_id not in self._tasks and self._not_before.get(job_id, 0.0) <= time.monotonic():
                self._tasks[job_id] = asyncio.ensure_future(self._work(job_id))
        if self._cancel_others:
            for job_id in self._tasks.keys() - set(wanted):
                self._tasks[job_id].cancel()

    async def end(self) -> None:
        """Cancel every task."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _bury(self, job_id: str, task: asyncio.Future[None]) -> None:
        self._not_before.pop(job_id, None)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Deposed):
            raise error
        if error is not None:
            log.error("work on a job failed; it is tried again", extra={"job": job_id}, exc_info=error)
            self._not_before[job_id] = time.monotonic() + self._pause_s
