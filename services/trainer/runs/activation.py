"""Turning a run's reservation from held into active: the step without which nothing starts."""

import asyncio
import logging

from services.common.errors import ApprovalRefused, Code, ServiceError
from services.common.failures import Failure
from services.trainer.peers import HardwareNode
from services.trainer.runs.directory import RunDirectory, RunRecord
from services.trainer.runs.failing import start_refused
from services.trainer.runs.stopping import Stop

log = logging.getLogger(__name__)

# The node has decided. Anything else says that it could not: ask again.
_REFUSALS = frozenset({Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT, Code.NOT_FOUND})


class Activation:
    """Asks the node, as often as it takes to get an answer, and lets callers wait for that answer."""

    def __init__(
        self, directory: RunDirectory, record: RunRecord, node: HardwareNode, retry_s: float
    ) -> None:
        self._directory = directory
        self._record = record
        self._node = node
        self._retry_s = retry_s
        self._nudge = asyncio.Event()
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def carry_out(self, stop: Stop) -> Failure | None:
        """Activate the reservation. Returns why the node refused; None: it did not, or the run is to stop."""
        while not stop.asked.is_set():
            try:
                await self._activate()
            except ServiceError as error:
                if error.code in _REFUSALS:
                    detail = error.detail if isinstance(error, ApprovalRefused) else str(error)
                    return start_refused(self._record.run, detail)
                log.warning("not activated yet", extra={"run": self._record.run, "error": str(error)})
                self._unanswered(error)
                await self._pause(stop)
            else:
                self.settle()
                return None
        return None

    async def answered(self) -> None:
        """Wait until the reservation is active, or the run has ended.

        Raises:
            ServiceError: the node cannot be asked now; the run goes on asking.
        """
        # A caller does not wait for the pause between two tries.
        self._nudge.set()
        await asyncio.shield(self._answer)

    async def _activate(self) -> None:
        token = await asyncio.to_thread(self._directory.approval)
        await self._node.activate(self._record.run, token, self._record.spec_sha256)

    def settle(self) -> None:
        """Let go of those who wait: the node has answered, or the run has ended."""
        if not self._answer.done():
            self._answer.set_result(None)

    def _unanswered(self, error: ServiceError) -> None:
        self._answer.set_exception(error)
        # Marked as seen: often nobody waits.
        self._answer.exception()
        self._answer = asyncio.get_running_loop().create_future()

    async def _pause(self, stop: Stop) -> None:
        self._nudge.clear()
        waiting = [asyncio.create_task(event.wait()) for event in (self._nudge, stop.asked)]
        try:
            await asyncio.wait(waiting, timeout=self._retry_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
