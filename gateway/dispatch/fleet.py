"""The duty of looking after nodes: who is silent, who is lost, who runs what no job of the ledger needs."""

import logging
import time
from collections.abc import Mapping, Sequence

from gateway.dispatch.losing import give_up
from gateway.dispatch.peers import Nodes, Trainers
from gateway.dispatch.reign import Reign
from gateway.jobs.states import ENDED
from gateway.ledger import attempts
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import state_topic
from gateway.ledger.nodes import all_nodes, mark
from gateway.nodes.node import FleetNode
from gateway.settings import GatewaySettings
from services.common.errors import ServiceError
from services.common.names import is_chat_run

log = logging.getLogger(__name__)

_MISSED = 3


class FleetKeeper:
    """Judges silence by this process's own monotonic clock, which begins with its reign."""

    def __init__(self, settings: GatewaySettings, nodes: Nodes, trainers: Trainers) -> None:
        self._settings = settings
        self._nodes = nodes
        self._trainers = trainers

    async def __call__(self, reign: Reign) -> None:
        """Look after nodes until cancelled."""
        heard: dict[str, tuple[int, float]] = {}
        strays: dict[tuple[str, str], float] = {}
        with reign.ledger.signals.listen() as listener:
            # Empty at the start of each reign: silence that nobody watched is no evidence.
            while True:
                nodes, placed = await reign.ledger.read(_fleet)
                moment = time.monotonic()
                for node in nodes:
                    if heard.get(node.name, (-1, 0.0))[0] != node.heartbeats:
                        heard[node.name] = (node.heartbeats, moment)
                    await self._judge(reign, node, moment - heard[node.name][1])
                await _move_away(reign, nodes)
                strays = await self._clear(nodes, placed, strays, moment)
                await listener.wait(min(self._settings.tick_s, self._settings.heartbeat_s))

    async def _judge(self, reign: Reign, node: FleetNode, silent_s: float) -> None:
        settings = self._settings
        # Without a lease its runs go on for ever: only a person can know that the machine is off.
        if not node.lost and node.lease_s and silent_s > node.lease_s + settings.lost_after_s:
            log.warning("node lost", extra={"node": node.name, "silent_s": round(silent_s)})
            await reign.write(lambda tx: give_up(tx, node.name))
        elif node.reachable and silent_s > _MISSED * settings.heartbeat_s:
            log.warning("node unreachable", extra={"node": node.name})
            await reign.write(lambda tx: mark(tx, [node.name], reachable=False))

    async def _clear(
        self,
        nodes: Sequence[FleetNode],
        placed: Mapping[str, Sequence[str]],
        before: Mapping[tuple[str, str], float],
        moment: float,
    ) -> dict[tuple[str, str], float]:
        """End runs that the ledger does not place where they are, once they have been there for a while.

        So comes to its end what a lost node was still doing when it came back.
        """
        strays = {
            (node.name, run): before.get((node.name, run), moment)
            for node in nodes
            if node.reachable
            for run in node.holding
            # A chat belongs to its call, and the trainer that serves that call ends it.
            if run not in placed.get(node.name, ()) and not is_chat_run(run)
        }
        # Not at first sight: a report may be older than the ledger.
        by_name = {node.name: node for node in nodes}
        for (name, run), since in tuple(strays.items()):
            if moment - since > _MISSED * self._settings.heartbeat_s:
                await self._end(by_name[name], run)
                strays[name, run] = moment
        return strays

    async def _end(self, node: FleetNode, run: str) -> None:
        log.warning("ending a run that is not the ledger's", extra={"node": node.name, "run": run})
        try:
            ended = await self._trainers.cancel_run(node.trainer_address, run, self._settings.cancel_grace_s)
            if ended.state in ENDED:
                await self._nodes.release(node.address, run)
        except ServiceError as error:
            log.info("not ended yet", extra={"run": run, "error": str(error)})


async def _fleet(tx: Transaction) -> tuple[list[FleetNode], Mapping[str, list[str]]]:
    return await all_nodes(tx), await attempts.open_runs(tx)


async def _move_away(reign: Reign, nodes: Sequence[FleetNode]) -> None:
    """Have the attempts on drained nodes stopped; also one that was placed while the order came."""

    async def work(tx: Transaction) -> None:
        for node in draining:
            for attempt in await attempts.open_attempts_on(tx, node.name):
                if not attempt.moving:
                    await attempts.update_attempt(tx, attempt, moving=True)
                    tx.touch(state_topic(attempt.job))

    draining = [node for node in nodes if node.draining and not node.lost]
    if draining:
        await reign.write(work)
