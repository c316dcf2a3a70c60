"""Why a job, an attempt or a run failed: the same triple that a failed call carries, kept as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.common.errors import ServiceError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A job's failure, 1:1 with weighbridge.common.v1.Failure."""

    reason: str
    """A value of weighbridge.errors.v1.Reason without its prefix, such as `MEMORY_OVERRUN`."""
    message: str
    """What happened, what the limit was, and what to do next."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The keys that the reason's comment names."""


def failure_of(error: ServiceError) -> Failure:
    """Return the failure of a job whose work ended in `error`."""
    return Failure(reason=error.reason, message=str(error), metadata=error.metadata)
