"""Memory for one attempt on one node: chosen in the ledger, reserved on the node, approved in the ledger."""

import logging
import time

from gateway.audit.records import Admission
from gateway.dispatch.peers import Nodes
from gateway.dispatch.reign import Reign
from gateway.dispatch.runs import Approved, Reserved
from gateway.jobs.job import Job, now
from gateway.jobs.states import JobState
from gateway.ledger import attempts
from gateway.ledger.audit import record_admission
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.jobs import change, get_job, move
from gateway.nodes.node import FleetNode
from gateway.weighing.peers import predict
from gateway.weighing.verdict import NodeVerdict
from services.common.errors import ServiceError

log = logging.getLogger(__name__)


class Desk:
    """Reserves on nodes and keeps what they answer."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def reserve(self, reign: Reign, node: FleetNode, job: Job) -> NodeVerdict:
        """Ask a node for the memory of a queued job's current attempt; with an approval it starts.

        Without one the attempt is dropped. It was never started, so what a node may have promised without our
        knowing lapses by itself.

        Raises:
            ServiceError: the node does not answer, or refuses the attempt for good.
            Moved: the job was cancelled meanwhile.
        """
        begin = time.monotonic()
        try:
            reserved = await self.ask(reign, node, job)
        except ServiceError:
            await reign.write(lambda tx: drop(tx, job))
            raise
        entry = _admission(job, node.name, reserved, time.monotonic() - begin)
        # A crash here leaves a choice without an approval: the same node is asked again, and says the same.
        try:
            await reign.write(lambda tx: _keep(tx, job, reserved.approval, entry))
        except Moved:
            await self._give_back(node, job.run)
            raise
        return reserved.verdict

    async def ask(self, reign: Reign, node: FleetNode, job: Job) -> Reserved:
        """Return a node's answer for the current attempt. Raises ServiceError."""
        assert job.resolved is not None
        assert job.estimate is not None
        kept = await reign.ledger.read(lambda tx: attempts.checkpoints_of(tx, job.id))
        start_from = kept[-1] if kept else None
        return await self._nodes.reserve(node.address, job.run, job.resolved, job.estimate, start_from)

    async def _give_back(self, node: FleetNode, run: str) -> None:
        try:
            await self._nodes.release(node.address, run)
        except ServiceError as error:
            log.info("not released: it lapses", extra={"run": run, "error": str(error)})


async def choose(reign: Reign, job: Job, node: str) -> Job:
    """Write down that a job's next attempt goes to a node, before the node hears of it. Raises Moved."""

    async def work(tx: Transaction) -> Job:
        # Never a number twice, not even a dropped one: an old message may still be on its way.
        number = job.attempt + 1
        await change(tx, job, attempt=number)
        await attempts.insert_attempt(tx, job.id, number, node)
        chosen = await get_job(tx, job.id)
        assert chosen is not None
        return chosen

    return await reign.write(work)


async def drop(tx: Transaction, job: Job) -> None:
    """Forget a queued job's current attempt, which has no approval."""
    attempt = await attempts.current_attempt(tx, job)
    if attempt is not None and attempt.approval is None:
        await attempts.delete_attempt(tx, attempt)


async def approve(tx: Transaction, job: Job, approval: Approved) -> None:
    """Keep an approval of the current attempt."""
    attempt = await attempts.current_attempt(tx, job)
    if attempt is None or job.estimate is None:
        raise Moved(job.id)
    prediction = predict(job.estimate, approval.device)
    await attempts.update_attempt(
        tx,
        attempt,
        approval=approval.message,
        device=approval.device,
        predicted_bytes=prediction.peak_bytes,
        method=prediction.method,
    )


async def _keep(tx: Transaction, job: Job, approval: Approved | None, entry: Admission) -> None:
    await record_admission(tx, entry)
    if approval is None:
        await drop(tx, job)
        return
    await approve(tx, job, approval)
    await move(tx, job, JobState.STARTING)


def _admission(job: Job, node: str, reserved: Reserved, duration_s: float) -> Admission:
    return Admission(
        time=now(),
        project=job.project,
        job=job.id,
        attempt=job.attempt,
        caller=job.caller,
        node=node,
        decision=reserved.verdict.decision,
        summary=reserved.verdict.summary,
        spec_sha256=job.spec_sha256,
        amounts=() if reserved.approval is None else reserved.approval.amounts,
        duration_s=duration_s,
    )
