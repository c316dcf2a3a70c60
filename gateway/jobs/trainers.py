"""Which trainer answers for a job."""

from gateway.jobs.jobs import JobView, find
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.nodes import all_nodes, get_node
from services.common.errors import NotFound, PeerUnavailable, WrongState
from services.common.names import run_name
from services.common.specs import Task


async def trainer_of(ledger: Ledger, name: str, attempt: int) -> tuple[str, str]:
    """Return an attempt's run and the address of its trainer; attempt 0 is the newest.

    Raises:
        NotFound: there is no such job or attempt.
        WrongState: the job has not been started yet.
        PeerUnavailable: the attempt's node is not known any more.
    """

    async def work(tx: Transaction) -> tuple[str, str]:
        view = await find(tx, name)
        if not view.attempts:
            raise WrongState(name, view.job.state, "a job that has an attempt")
        numbered = {each.attempt: each for each in view.attempts}
        found = numbered.get(attempt or max(numbered))
        if found is None:
            raise NotFound(run_name(view.job.id, attempt))
        node = await get_node(tx, found.node)
        if node is None or not node.trainer_address:
            raise PeerUnavailable(found.node)
        return found.run, node.trainer_address

    return await ledger.read(work)


async def classifiers(ledger: Ledger, name: str) -> tuple[str, list[str]]:
    """Return a job's artifact and the addresses of trainers to run it, the one that made it first.

    Raises:
        NotFound: there is no such job.
        WrongState: it is no image classifier, or has no artifact.
        PeerUnavailable: no trainer can be reached.
    """

    async def work(tx: Transaction) -> tuple[str, list[str]]:
        view = await find(tx, name)
        job = view.job
        if job.task != Task.IMAGE_CLASSIFICATION:
            raise WrongState(job.name, f"a job of {job.task}", f"jobs of {Task.IMAGE_CLASSIFICATION}")
        if not job.artifact_digest:
            raise WrongState(job.name, f"{job.state} without an artifact", "a job that succeeded")
        made_on = _maker(view)
        nodes = [node for node in await all_nodes(tx) if node.reachable and node.trainer_address]
        nodes.sort(key=lambda node: (node.name != made_on, not node.ready))
        if not nodes:
            raise PeerUnavailable("every trainer")
        return job.artifact_digest, [node.trainer_address for node in nodes]

    return await ledger.read(work)


def _maker(view: JobView) -> str:
    return view.attempts[-1].node if view.attempts else ""
