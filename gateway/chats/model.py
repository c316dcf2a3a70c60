"""Which model is talked to, and where it could be loaded."""

from dataclasses import dataclass

from gateway.jobs.jobs import find
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.nodes import all_nodes
from gateway.nodes.node import FleetNode
from gateway.packed import Packed
from services.common.errors import PeerUnavailable, WrongState
from services.common.specs import DeviceKind, Task

_TASKS = (Task.SFT, Task.DPO)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a caller wants to talk to."""

    name: str
    """The job's."""
    context_tokens: int = 0
    device: DeviceKind | None = None


@dataclass(frozen=True)
class Model:
    """What a job made."""

    job: str
    """Its name."""
    job_id: str
    project: str
    resolved: bytes
    artifact: Packed
    maker: str
    """The node that trained it, where its files may still be."""


async def find_model(ledger: Ledger, name: str) -> tuple[Model, list[FleetNode]]:
    """Return a job's model and the nodes that take work now.

    Raises:
        NotFound: there is no such job.
        WrongState: it makes no language model, or has no artifact.
        PeerUnavailable: no node takes work.
    """

    async def work(tx: Transaction) -> tuple[Model, list[FleetNode]]:
        view = await find(tx, name)
        job = view.job
        if job.task not in _TASKS:
            raise WrongState(job.name, f"a job of {job.task}", f"jobs of {' and '.join(_TASKS)}")
        if job.artifact is None or job.resolved is None:
            raise WrongState(job.name, f"{job.state} without an artifact", "a job that succeeded")
        maker = view.attempts[-1].node if view.attempts else ""
        model = Model(job.name, job.id, job.project, job.resolved, job.artifact, maker)
        nodes = [node for node in await all_nodes(tx) if node.takes_jobs and node.trainer_address]
        if not nodes:
            raise PeerUnavailable("every node that takes jobs")
        return model, nodes

    return await ledger.read(work)
