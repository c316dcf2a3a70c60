"""The node as a member of its fleet: registered, reporting, and patient while the gateway is away."""

import asyncio
import logging
from datetime import UTC, datetime

from services.common.errors import ServiceError
from services.common.lease import Lease, boottime_s
from services.hardware.admission.approvals import reservation_of
from services.hardware.admission.desk import Desk
from services.hardware.admission.reservations import Entry
from services.hardware.admission.view import NodeView
from services.hardware.fleet import LiveAttempt
from services.hardware.peers import Gateway
from services.hardware.resources import Node, ReservationState

log = logging.getLogger(__name__)

# Every call tries five times within seconds by itself: this is the pause between such rounds.
_RETRY_S = 1.0


class Membership:
    """Keeps the gateway told, for as long as the service lives. Runs do not depend on it."""

    def __init__(
        self, gateway: Gateway, view: NodeView, desk: Desk, lease: Lease, heartbeat_s: float
    ) -> None:
        self._gateway = gateway
        self._view = view
        self._desk = desk
        self._lease = lease
        self._heartbeat_s = heartbeat_s
        self._away = False

    async def keep(self) -> None:
        """Register, then report at every beat and every noticeable change; begin again when that fails."""
        while True:
            try:
                node = await self._register()
                while await self._report(node):
                    node = await self._view.read_after(node, self._heartbeat_s)
            except ServiceError as error:
                self._note("the gateway does not take reports", error)
                await asyncio.sleep(_RETRY_S)
            except OSError as error:
                # No report may follow a lease that is not on the disk: it would tell the gateway that the
                # node knows of it, also after a restart.
                self._note("what the gateway said cannot be written down", error)
                await asyncio.sleep(_RETRY_S)

    async def _register(self) -> Node:
        node = await self._view.read()
        sent_s = boottime_s()
        answer = await self._gateway.register(node, has_journal=self._desk.knows_promises)
        await self._renew_lease(sent_s, answer.node_lease_s)
        # An attempt without an approval was never sent to a trainer: nothing of it can live here.
        await self._desk.adopt([_entry(live) for live in answer.live_attempts if live.approval is not None])
        self._heartbeat_s = answer.heartbeat_interval_s or self._heartbeat_s
        log.info("registered", extra={"node": node.name, "heartbeat_s": self._heartbeat_s})
        self._away = False
        # The journal may have made the node ready just now.
        return await self._view.read()

    async def _report(self, node: Node) -> bool:
        """Report once; return whether the gateway knows the node."""
        sent_s = boottime_s()
        answer = await self._gateway.heartbeat(node)
        if answer.register_again:
            return False
        await self._renew_lease(sent_s, answer.node_lease_s)
        return True

    async def _renew_lease(self, sent_s: float, granted_s: float | None) -> None:
        # The contract's 0 stands for ever: on a fleet of one nobody else could go on with the runs.
        await asyncio.to_thread(self._lease.renew, sent_s, granted_s or None)

    def _note(self, what: str, error: Exception) -> None:
        # Said once, not every second of a long absence.
        if not self._away:
            log.warning(what, extra={"error": repr(error)})
        self._away = True


def _entry(live: LiveAttempt) -> Entry:
    """Return the reservation of an attempt that may have a process: only its release frees that memory."""
    approval = live.approval
    assert approval is not None
    return Entry(
        id=reservation_of(approval.token),
        run=live.run,
        state=ReservationState.ACTIVE,
        amounts=approval.amounts,
        device=approval.device,
        spec_sha256=approval.spec_sha256,
        create_time=datetime.now(UTC),
    )
