"""Entries of the audit trail."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.common.names import job_name


class Decision(StrEnum):
    """What follows from weighing."""

    ADMIT = "admit"
    WAIT = "wait"
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True)
class DeviceAmount:
    """Memory of one device."""

    device: str
    reserved_bytes: int = 0
    used_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Admission:
    """Who asked for what, what was decided, and why."""

    time: datetime
    project: str
    caller: str
    decision: Decision
    summary: str
    duration_s: float
    job: str = ""
    """Id of the job; empty for a check."""
    attempt: int = 0
    node: str = ""
    """The node that decided; empty: the whole fleet's capacity."""
    spec_sha256: str = ""
    amounts: tuple[DeviceAmount, ...] = ()
    id: int = 0
    """Given by the ledger, growing."""

    @property
    def name(self) -> str:
        """`admissions/{admission}`."""
        return f"admissions/{self.id}"

    @property
    def job_name(self) -> str:
        """The job's resource name."""
        return job_name(self.project, self.job) if self.job else ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A prediction beside what was measured."""

    project: str
    run: str
    node: str
    model_type: str
    task: str
    device: str | None
    method: str | None
    predicted_bytes: int
    measured_bytes: int
    product: str
    end_time: datetime
    id: int = 0
    """Given by the ledger, growing."""
