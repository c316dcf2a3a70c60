"""A job as the ledger holds it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Self

from gateway.jobs.states import ConditionType, JobState, RunState
from gateway.packed import Packed
from services.common.failures import Failure
from services.common.names import job_name, run_name


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Something that stands in a job's way or is under way."""

    type: ConditionType
    message: str
    since: datetime
    position: int = 0
    done_bytes: int = 0
    total_bytes: int = 0

    @classmethod
    def of(cls, kind: ConditionType, message: str, **figures: int) -> Self:
        """Return a condition that begins now."""
        return cls(type=kind, message=message, since=now(), **figures)

    def same_news(self, other: Self) -> bool:
        """Say whether `other` says nothing that this does not."""
        return replace(other, since=self.since) == self

    def to_json(self) -> dict[str, Any]:
        """Return it as the ledger keeps it."""
        return {**asdict(self), "since": self.since.isoformat()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return what `to_json` wrote."""
        return cls(
            **{**raw, "type": ConditionType(raw["type"]), "since": datetime.fromisoformat(raw["since"])}
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job's row; the contract's TrainingJob and `ledger.tables.jobs` say what its fields are."""

    id: str
    project: str
    caller: str
    request_sha256: str
    spec: Packed
    task: str
    dataset: str
    create_time: datetime
    state: JobState = JobState.PENDING
    display_name: str = ""
    request_id: str | None = None
    base_job: str | None = None
    priority: int = 0
    retry_limit: int = 3
    save_total_limit: int = 2
    artifact_ttl_s: float | None = None
    attempt: int = 0
    retries_from: int = 0
    estimate_tries: int = 0
    not_before: datetime | None = None
    resolved: bytes | None = None
    spec_sha256: str = ""
    model_type: str = ""
    base_artifact: str = ""
    estimate: Packed | None = None
    verdict: Packed | None = None
    progress: Packed | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    artifact: Packed | None = None
    artifact_digest: str = ""
    failure: Failure | None = None
    warnings: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    event_seq: int = 0
    version: int = 1
    start_time: datetime | None = None
    end_time: datetime | None = None
    expire_time: datetime | None = None

    @property
    def name(self) -> str:
        """`projects/{project}/trainingJobs/{job}`."""
        return job_name(self.project, self.id)

    @property
    def run(self) -> str:
        """The current attempt's run."""
        return run_name(self.id, self.attempt)


@dataclass(frozen=True, kw_only=True)
class DevicePeak:
    """Memory of one device that a run used."""

    device: str
    used_bytes: int
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try to run a job: a row of `ledger.tables.attempts`."""

    job: str
    attempt: int
    node: str
    create_time: datetime
    state: RunState | None = None
    approval: Packed | None = None
    device: str | None = None
    predicted_bytes: int = 0
    method: str | None = None
    cursor: str = ""
    moving: bool = False
    failure: Failure | None = None
    peaks: tuple[DevicePeak, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def run(self) -> str:
        """The run's name."""
        return run_name(self.job, self.attempt)


@dataclass(frozen=True)
class LiveProgress:
    """Progress on its way to those who watch now."""

    after_seq: int
    """The event that it follows."""
    message: Packed


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened to a job, kept as long as the job: a row of `ledger.tables.events`."""

    job: str
    seq: int
    attempt: int
    time: datetime
    kind: str
    """`job`: the body is `state_body`'s JSON. Else a field of the contract's JobEvent, and its message."""
    body: bytes
