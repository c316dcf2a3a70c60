"""The duty of placing: from QUEUED to STARTING, with memory reserved and approved."""

from collections.abc import Sequence

from gateway.audit.records import Decision
from gateway.dispatch.peers import Nodes
from gateway.dispatch.queueing import Round, candidates
from gateway.dispatch.reign import Reign
from gateway.dispatch.reserving import Desk, choose, drop
from gateway.jobs.job import Attempt, Condition, Job, now
from gateway.jobs.states import JobState
from gateway.ledger import attempts
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.jobs import ANY_JOB, get_job, queue, set_conditions
from gateway.ledger.nodes import FLEET, all_nodes, get_node, refresh
from gateway.nodes.node import FleetNode
from gateway.settings import GatewaySettings
from gateway.weighing.peers import Estimator
from gateway.weighing.verdict import NodeVerdict
from services.common.errors import Code, ServiceError
from services.common.names import parse_run

_REFUSALS_A_ROUND = 3
_SILENCE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})


class Placer:
    """Gives nodes to the jobs that wait, in the order of the queue."""

    def __init__(self, settings: GatewaySettings, estimator: Estimator, nodes: Nodes) -> None:
        self._settings = settings
        self._estimator = estimator
        self._nodes = nodes
        self._desk = Desk(nodes)

    async def __call__(self, reign: Reign) -> None:
        """Place jobs until cancelled."""
        with reign.ledger.signals.listen(ANY_JOB, FLEET) as listener:
            while True:
                await self.place_all(reign)
                await listener.wait(self._settings.tick_s)

    async def place_all(self, reign: Reign) -> None:
        """Go through the queue once."""
        queued, nodes, placed = await reign.ledger.read(_look)
        this = Round({node.name: node for node in nodes})
        for job in queued:
            # One whose attempts keep failing before they train comes back in a while; nobody waits for it.
            if job.not_before is not None and job.not_before > now():
                continue
            # Most of a long queue ends here, without a look at the job itself.
            if job.id not in placed and not this.open_nodes():
                this.wait(job, this.reason(()))
                continue
            try:
                await self._place(reign, this, job)
            except Moved:
                continue
        await _tell(reign, this)

    async def _place(self, reign: Reign, this: Round, queued: Job) -> None:
        job, last = await reign.ledger.read(lambda tx: _load(tx, queued))
        # Chosen before a crash: that node may have said yes, so it is asked before any other.
        if last is not None and last.end_time is None and await self._again(reign, this, job, last):
            return
        open_nodes = this.open_nodes()
        if not open_nodes:
            this.wait(job, this.reason(()))
            return
        try:
            verdicts = await self._weigh(job, open_nodes)
        except ServiceError as error:
            this.wait(job, f"the estimator does not answer: {error}")
            # Unless it is this job alone that it stumbles over: then nobody is to wait for it.
            if error.code in _SILENCE:
                this.keep_nodes(job, open_nodes)
            return
        # Weights and data lie where it trained before. Where it never got so far, something may be wrong.
        stay = last is not None and last.start_time is not None
        tried = candidates(verdicts, "" if last is None else last.node, stay=stay)[:_REFUSALS_A_ROUND]
        for verdict in tried:
            job = await choose(reign, job, verdict.node)
            answer = await self._ask(reign, this, job, verdict.node)
            if answer is not None and answer.decision is Decision.ADMIT:
                return
            if answer is not None:
                # The node's own word is newer than the report that it was chosen by.
                verdicts = [answer if each is verdict else each for each in verdicts]
        this.wait(job, this.reason(verdicts))
        this.keep(job, verdicts)

    async def _again(self, reign: Reign, this: Round, job: Job, chosen: Attempt) -> bool:
        """Ask the node that was chosen before a crash, which may have said yes; return whether it does."""
        answer = await self._ask(reign, this, job, chosen.node)
        return answer is not None and answer.decision is Decision.ADMIT

    async def _ask(self, reign: Reign, this: Round, job: Job, name: str) -> NodeVerdict | None:
        """Reserve on a node; None where it does not answer. What it has left then, the next job is told."""
        node = this.fleet.get(name)
        if node is None:
            await reign.write(lambda tx: drop(tx, job))
            return None
        try:
            verdict = await self._desk.reserve(reign, node, job)
        except ServiceError as error:
            this.silent[name] = f"{name} does not answer: {error}"
            return None
        if verdict.decision is Decision.ADMIT:
            await self._look_again(reign, this, node)
        return verdict

    async def _look_again(self, reign: Reign, this: Round, node: FleetNode) -> None:
        """Read a node that has just promised memory: its last report does not know of that."""
        try:
            report = await self._nodes.read(node.address)
        except ServiceError as error:
            this.silent[node.name] = f"{node.name} does not answer: {error}"
            return
        await reign.write(lambda tx: refresh(tx, report))
        latest = await reign.ledger.read(lambda tx: get_node(tx, node.name))
        this.fleet = {**this.fleet, node.name: latest or node}

    async def _weigh(self, job: Job, nodes: Sequence[FleetNode]) -> list[NodeVerdict]:
        assert job.resolved is not None
        assert job.estimate is not None
        return await self._estimator.weigh(job.resolved, job.estimate, [node.snapshot for node in nodes])


async def _look(tx: Transaction) -> tuple[list[Job], list[FleetNode], set[str]]:
    """Return the queue, the nodes, and which jobs have an attempt that is open."""
    runs = await attempts.open_runs(tx)
    placed = {parse_run(run)[0] for on_node in runs.values() for run in on_node}
    return await queue(tx), await all_nodes(tx), placed


async def _load(tx: Transaction, queued: Job) -> tuple[Job, Attempt | None]:
    job = await get_job(tx, queued.id)
    if job is None or job.state is not JobState.QUEUED:
        raise Moved(queued.id)
    return job, await attempts.last_attempt(tx, job.id)


async def _tell(reign: Reign, this: Round) -> None:
    """Write down for every job that waits where it stands and why."""

    news = [(job, condition) for job, condition in this.waiting if not _knows(job, condition)]

    async def work(tx: Transaction) -> None:
        for waiting, condition in news:
            job = await get_job(tx, waiting.id)
            if job is not None and job.state is JobState.QUEUED:
                await set_conditions(tx, job, (condition,))

    if news:
        await reign.write(work)


def _knows(job: Job, condition: Condition) -> bool:
    return len(job.conditions) == 1 and job.conditions[0].same_news(condition)
