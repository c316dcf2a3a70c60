"""Memory for a conversation: asked for like a run's, on the node that made the model first."""

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from gateway.audit.records import Admission, Decision
from gateway.chats.model import Model, Wanted, find_model
from gateway.chats.peers import ChatEstimate, estimate_chat, reach
from gateway.dispatch.peers import Nodes
from gateway.dispatch.runs import Approved
from gateway.jobs.job import now
from gateway.ledger.audit import record_admission
from gateway.ledger.engine import Ledger
from gateway.nodes.node import FleetNode
from gateway.peers import Peers
from gateway.scope import caller_name
from gateway.weighing.peers import Estimator
from gateway.weighing.verdict import NodeVerdict, best_first
from services.common.context import spawn
from services.common.errors import DoesNotFit, MustWait, PeerUnavailable, ServiceError
from services.common.names import chat_run_name

log = logging.getLogger(__name__)

_TRIES = 3
_HOST = "host"


@dataclass
class Place:
    """Memory that a node has promised to a conversation."""

    run: str
    node: FleetNode
    approval: Approved
    resolved: bytes
    summary: str
    handed_over: bool = False
    """Whether a trainer was told of it: from then on it is the trainer's to give back."""

    @property
    def reserved_bytes(self) -> int:
        """What is reserved on the device that computes."""
        sizes = {amount.device: amount.reserved_bytes for amount in self.approval.amounts}
        gpus = [size for device, size in sizes.items() if device not in (_HOST, "disk")]
        return max(gpus, default=sizes.get(_HOST, 0))


@dataclass(frozen=True)
class ChatDesk:
    """Finds memory for conversations."""

    ledger: Ledger
    peers: Peers
    estimator: Estimator
    nodes: Nodes
    _later: set[object] = field(default_factory=set)

    @asynccontextmanager
    async def reserved(self, wanted: Wanted) -> AsyncIterator[Place]:
        """Have memory on a node inside the block; given back unless a trainer was told of it.

        Raises:
            NotFound, WrongState: the job does not exist, or made no language model.
            InvalidModel, InvalidRequest: its artifact, or the context asked for, cannot be used.
            MustWait, DoesNotFit: no node has the memory, now or ever; with the best verdict.
            PeerUnavailable: no node answers.
        """
        model, nodes = await find_model(self.ledger, wanted.name)
        needed = await estimate_chat(self.peers, model, wanted)
        place = await self._reserve(model, needed, nodes)
        try:
            yield place
        finally:
            if not place.handed_over:
                self._give_back(place.node, place.run)

    async def _reserve(self, model: Model, needed: ChatEstimate, nodes: Sequence[FleetNode]) -> Place:
        weighed = await self.estimator.weigh(
            needed.resolved, needed.estimate, [node.snapshot for node in nodes]
        )
        fleet = {node.name: node for node in nodes}
        verdicts = best_first(weighed)
        for verdict in _in_order(verdicts, model.maker)[:_TRIES]:
            try:
                answer = await self._ask(model, needed, fleet[verdict.node])
            except ServiceError as error:
                log.info("node asked in vain", extra={"node": verdict.node, "error": str(error)})
                continue
            if isinstance(answer, Place):
                return answer
            # The node's own word is newer than the report that it was chosen by.
            verdicts = [answer if each is verdict else each for each in verdicts]
        raise _refusal(model, best_first(verdicts))

    async def _ask(self, model: Model, needed: ChatEstimate, node: FleetNode) -> Place | NodeVerdict:
        run, begin_s = chat_run_name(), time.monotonic()
        answered = False
        # Before memory is promised: handed to a trainer that does not answer, it would be held until it
        # lapses, for nobody could know whether it had arrived.
        await reach(self.peers, node.trainer_address)
        try:
            reserved = await self.nodes.reserve(node.address, run, needed.resolved, needed.estimate, None)
            answered = reserved.approval is None
            await self._record(model, node, reserved.verdict, reserved.approval, time.monotonic() - begin_s)
            if reserved.approval is None:
                return reserved.verdict
            answered = True
            return Place(run, node, reserved.approval, needed.resolved, reserved.verdict.summary)
        finally:
            # It may have said yes to somebody who had left, or could not hear it.
            if not answered:
                self._give_back(node, run)

    async def _record(
        self,
        model: Model,
        node: FleetNode,
        verdict: NodeVerdict,
        approval: Approved | None,
        duration_s: float,
    ) -> None:
        entry = Admission(
            time=now(),
            project=model.project,
            job=model.job_id,
            caller=caller_name(),
            node=node.name,
            decision=verdict.decision,
            summary=f"chat: {verdict.summary}",
            amounts=() if approval is None else approval.amounts,
            duration_s=duration_s,
        )
        await self.ledger.write(lambda tx: record_admission(tx, entry))

    def _give_back(self, node: FleetNode, run: str) -> None:
        async def release() -> None:
            try:
                await self.nodes.release(node.address, run)
            except ServiceError as error:
                log.info("not released: it lapses", extra={"run": run, "error": str(error)})

        task = spawn(release(), "release")
        self._later.add(task)
        task.add_done_callback(self._later.discard)


def _in_order(verdicts: Sequence[NodeVerdict], maker: str) -> list[NodeVerdict]:
    """Return the verdicts of nodes to ask: those that can, the maker of the model before others.

    One that has to wait by its last report may have room by now, as when another chat has just ended.
    """
    possible = [verdict for verdict in verdicts if verdict.decision is not Decision.REJECT]
    return sorted(possible, key=lambda each: (each.decision is not Decision.ADMIT, each.node != maker))


def _refusal(model: Model, verdicts: Sequence[NodeVerdict]) -> ServiceError:
    if not verdicts:
        return PeerUnavailable("every node that takes jobs")
    best = verdicts[0]
    what = f"a chat with {model.job}"
    if best.decision is Decision.REJECT:
        return DoesNotFit(what, best.summary)
    if best.decision is Decision.WAIT:
        return MustWait(what, best.summary)
    # By its report it had room, and then it did not answer.
    return PeerUnavailable(best.node)
