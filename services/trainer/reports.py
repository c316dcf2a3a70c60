"""What the trainer tells its node, again and again: a restarted hardware service knows it within seconds.

And what it hears back: until when its runs may go on.
"""

import asyncio
import logging

from services.common.errors import PeerUnavailable, ServiceError
from services.common.lease import Lease, boottime_s
from services.common.names import is_chat_run, node_name
from services.trainer.capabilities import Capabilities
from services.trainer.chats.chats import Chats
from services.trainer.peers import HardwareNode
from services.trainer.runs.registry import Runs
from services.trainer.settings import TrainerSettings

log = logging.getLogger(__name__)

_LOOK_S = 0.5


class NodeReports:
    """Reports to the node, and learns from its answers which node it is and what it still holds."""

    def __init__(
        self,
        node: HardwareNode,
        runs: Runs,
        chats: Chats,
        capabilities: Capabilities,
        lease: Lease,
        settings: TrainerSettings,
    ) -> None:
        self._node = node
        self._runs = runs
        self._chats = chats
        self._capabilities = capabilities
        self._lease = lease
        self._settings = settings
        self._name = node_name(settings.node.removeprefix("nodes/")) if settings.node else ""

    @property
    def node_name(self) -> str:
        """The node that this trainer is on. Raises PeerUnavailable until the node has told."""
        if not self._name:
            raise PeerUnavailable(self._settings.hardware_target)
        return self._name

    async def go_on(self) -> None:
        """Report for ever."""
        reached = True
        while True:
            try:
                await self._report()
            except (ServiceError, OSError) as error:
                # Said once, not every few seconds.
                log.log(
                    logging.WARNING if reached else logging.DEBUG,
                    "the node takes no report",
                    extra={"target": self._settings.hardware_target, "error": str(error)},
                )
                reached = False
            else:
                reached = True
            await asyncio.sleep(self._settings.report_s)

    async def keep_to_lease(self) -> None:
        """Stop the runs whenever the node's lease has ended, whether the node answers or not."""
        ended = False
        # Looked at again and again: timers of the event loop stand still while the machine sleeps.
        while True:
            if self._lease.ended and not ended:
                log.warning("the node's lease has ended: its runs are stopped, and none is started")
            ended = self._lease.ended
            self._runs.stop_at_lease_end()
            await asyncio.sleep(_LOOK_S)

    async def _report(self) -> None:
        software = await self._capabilities.software()
        sent_s = boottime_s()
        report = await self._node.report_trainer(self._settings.address, software)
        if self._name not in ("", report.node):
            # Two machines behind one address: nothing that is said about reservations is about ours.
            log.error("another node answers", extra={"expected": self._name, "found": report.node})
            return
        self._name = report.node
        await asyncio.to_thread(self._lease.renew, sent_s, report.lease_s)
        await self._chats.reconcile(report.reservations)
        await self._runs.reconcile([each for each in report.reservations if not is_chat_run(each.run)])
