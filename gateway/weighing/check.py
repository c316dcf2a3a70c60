"""CheckTrainingJob: weighing without a job."""

import time
from dataclasses import dataclass

from gateway.audit.records import Admission
from gateway.jobs.job import now
from gateway.jobs.references import References, look_up
from gateway.ledger.audit import record_admission
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.nodes import all_nodes
from gateway.nodes.node import FleetNode
from gateway.packed import Packed
from gateway.scope import caller_name, enter
from gateway.weighing.peers import Estimator, Question
from gateway.weighing.scales import Weighed, weigh
from gateway.weighing.verdict import Resolved
from services.common.errors import NotFound
from services.common.specs import Task, TrainingSpec

# Data for these cannot be uploaded yet. Whether such a job would fit can be asked all the same.
_TYPICAL_DATA = frozenset({Task.SFT, Task.DPO})


@dataclass(frozen=True)
class Checked:
    """What weighing a spec found."""

    resolved: Resolved
    estimate: Packed
    weighed: Weighed
    warnings: tuple[str, ...]


class Check:
    """Weighs specs for the caller of the call being served."""

    def __init__(self, ledger: Ledger, estimator: Estimator) -> None:
        self._ledger = ledger
        self._estimator = estimator

    async def check(self, project: str, spec: TrainingSpec, message: Packed) -> Checked:
        """Return what the fleet says to a spec.

        Raises:
            NotFound, InvalidSpec: the spec names what it cannot use.
            InvalidModel: its model cannot be read.
        """
        begin = time.monotonic()
        question, nodes, warnings = await self.ask_about(project, spec, message)
        resolved = await self._estimator.resolve(question)
        estimate = await self._estimator.estimate(resolved.data)
        weighed = await weigh(self._estimator, question, resolved.data, estimate, nodes)
        entry = Admission(
            time=now(),
            project=project,
            caller=caller_name(),
            decision=weighed.decision,
            summary=weighed.summary,
            spec_sha256=resolved.sha256,
            duration_s=time.monotonic() - begin,
        )
        await self._ledger.write(lambda tx: record_admission(tx, entry))
        return Checked(resolved, estimate, weighed, warnings + resolved.warnings)

    async def ask_about(
        self, project: str, spec: TrainingSpec, message: Packed
    ) -> tuple[Question, list[FleetNode], tuple[str, ...]]:
        """Return a spec as a question to the estimator, the nodes it is about, and what had to be assumed."""
        enter(project)

        async def work(tx: Transaction) -> tuple[References | None, list[FleetNode]]:
            return await _references(tx, project, spec), await all_nodes(tx)

        found, nodes = await self._ledger.read(work)
        if found is None:
            assumed = (f"{spec.dataset} does not exist: data of a typical size is assumed",)
            return Question(project, message, None, None), nodes, assumed
        return Question(project, message, found.dataset, found.base_artifact), nodes, ()


async def _references(tx: Transaction, project: str, spec: TrainingSpec) -> References | None:
    try:
        return await look_up(tx, project, spec)
    except NotFound as error:
        if spec.task in _TYPICAL_DATA and error.resource == spec.dataset:
            return None
        raise
