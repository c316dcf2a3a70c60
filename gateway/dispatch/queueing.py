"""The order of the queue as a rule: who may take which node, and what those who wait are told."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.audit.records import Decision
from gateway.jobs.job import Condition, Job
from gateway.jobs.states import ConditionType
from gateway.nodes.node import FleetNode
from gateway.weighing.verdict import NodeVerdict, best_first


@dataclass
class Round:
    """One pass over the queue.

    A job that waits keeps every node that is large enough for it; what is left for the jobs behind it is too
    small for every job ahead of them.
    """

    fleet: Mapping[str, FleetNode]
    kept_by: dict[str, Job] = field(default_factory=dict)
    """The nodes that nobody may take any more in this pass, and the job that keeps each."""
    silent: dict[str, str] = field(default_factory=dict)
    """The nodes that did not answer in this pass, each with that in words."""
    waiting: list[tuple[Job, Condition]] = field(default_factory=list)

    def open_nodes(self) -> list[FleetNode]:
        """Return the nodes that the next job may take."""
        taken = self.kept_by.keys() | self.silent.keys()
        return [node for node in self.fleet.values() if node.takes_jobs and node.name not in taken]

    def keep(self, job: Job, verdicts: Iterable[NodeVerdict]) -> None:
        """Keep for a job that waits what its size allows it to wait for."""
        for verdict in verdicts:
            if verdict.decision is not Decision.REJECT:
                self.kept_by.setdefault(verdict.node, job)

    def keep_nodes(self, job: Job, nodes: Iterable[FleetNode]) -> None:
        """Keep these nodes for a job."""
        for node in nodes:
            self.kept_by.setdefault(node.name, job)

    def wait(self, job: Job, reason: str) -> None:
        """Tell a job its position in the queue and why it waits."""
        position = len(self.waiting) + 1
        kind = ConditionType.WAITING if self.fleet else ConditionType.NO_NODES
        self.waiting.append((job, Condition.of(kind, reason, position=position if self.fleet else 0)))

    def reason(self, verdicts: Iterable[NodeVerdict]) -> str:
        """Return why a job waits that no open node took."""
        ranked = best_first(each for each in verdicts if each.node not in self.silent)
        if ranked and ranked[0].decision is not Decision.REJECT:
            return ranked[0].summary
        if not self.fleet:
            return "no node is known yet"
        if self.silent:
            return "; ".join(self.silent.values())
        if self.kept_by:
            first = next(iter(self.kept_by.values()))
            names = ", ".join(sorted(self.kept_by))
            return f"{names} is kept for jobs ahead of this one, first for {first.name}"
        if ranked:
            return f"no node that takes jobs now can hold it: {ranked[0].summary}"
        return f"no node takes jobs now: {_states(self.fleet.values())}"


def candidates(verdicts: Iterable[NodeVerdict], last_node: str, *, stay: bool) -> list[NodeVerdict]:
    """Return the nodes to try, best first: the node of the last attempt before all, if the job is to stay.

    What the last attempt fetched lies there. After one that never began to train it comes last instead.
    """
    fitting = [verdict for verdict in best_first(verdicts) if verdict.decision is Decision.ADMIT]
    return sorted(fitting, key=lambda verdict: (verdict.node == last_node) != stay if last_node else False)


def _states(nodes: Iterable[FleetNode]) -> str:
    return "; ".join(f"{node.name} is {node.state}: {node.state_reason}" for node in nodes)
