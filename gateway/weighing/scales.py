"""Weighing a job against the capacity of every node, reachable or not."""

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.audit.records import Decision
from gateway.nodes.node import FleetNode
from gateway.packed import Packed
from gateway.weighing.peers import Estimator, Question, pack_verdict
from gateway.weighing.verdict import best_first

_NO_NODES = "no node is known yet: it is weighed as soon as one registers"


@dataclass(frozen=True)
class Weighed:
    """What the fleet says to a job."""

    decision: Decision
    summary: str
    verdict: Packed
    """A JobVerdict."""


async def weigh(
    estimator: Estimator, question: Question, resolved: bytes, estimate: Packed, nodes: Sequence[FleetNode]
) -> Weighed:
    """Hold an estimate against every node, and look for plans where none could ever hold it.

    Without a node the job waits for one.
    """
    snapshots = [node.snapshot for node in nodes]
    verdicts = best_first(await estimator.weigh(resolved, estimate, snapshots))
    if not verdicts:
        return Weighed(Decision.WAIT, _NO_NODES, pack_verdict(Decision.WAIT, _NO_NODES, [], []))
    # Plans are searched for where they help: what fits needs none, and the search takes a while.
    decision, summary = verdicts[0].decision, verdicts[0].summary
    plans = await estimator.plans(question, snapshots) if decision is Decision.REJECT else []
    return Weighed(decision, summary, pack_verdict(decision, summary, verdicts, plans))
