"""What weighing finds."""

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.audit.records import Decision
from gateway.packed import Packed

_BEST_FIRST = (Decision.ADMIT, Decision.WAIT, Decision.REJECT)


@dataclass(frozen=True)
class Resolved:
    """A spec without gaps."""

    data: bytes
    """Made once: approvals sign their digest."""
    sha256: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What an estimate says about the device that trains."""

    method: str
    peak_bytes: int


@dataclass(frozen=True)
class NodeVerdict:
    """What one node says to a job."""

    node: str
    decision: Decision
    summary: str
    left_bytes: int
    """What would be left of the memory that it has least of; negative where that is too little."""
    message: Packed


def best_first(verdicts: Iterable[NodeVerdict]) -> list[NodeVerdict]:
    """Return verdicts, those first that are best for the job and, among equals, leave least unused."""
    return sorted(verdicts, key=lambda verdict: (_BEST_FIRST.index(verdict.decision), _fit(verdict)))


def _fit(verdict: NodeVerdict) -> int:
    # Where a job does not fit, the node comes first that lacks least.
    return verdict.left_bytes if verdict.decision is Decision.ADMIT else -verdict.left_bytes
