"""Where a job and its attempts can stand, and which way a job may go on.

PENDING -> WEIGHING -> QUEUED | REJECTED | FAILED
QUEUED -> STARTING -> RUNNING -> SUCCEEDED | FAILED
STARTING | RUNNING -> QUEUED                             an attempt was lost, or its node is drained
FAILED | CANCELLED -> QUEUED                             resumed
every state before a final one -> CANCELLING -> CANCELLED | SUCCEEDED
"""

from enum import StrEnum


class JobState(StrEnum):
    """Where a job stands; the contract describes each."""

    PENDING = "pending"
    WEIGHING = "weighing"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REJECTED})
LIVE = frozenset(JobState) - FINAL
# While a job is one of these its driver moves it on, on the node of its attempt.
DRIVEN = frozenset({JobState.STARTING, JobState.RUNNING, JobState.CANCELLING})
RESUMABLE = frozenset({JobState.FAILED, JobState.CANCELLED})

_NEXT: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.WEIGHING, JobState.FAILED, JobState.CANCELLING}),
    JobState.WEIGHING: frozenset({JobState.QUEUED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLING}),
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.FAILED, JobState.CANCELLING}),
    # A run may be over before its first word of running was read.
    JobState.STARTING: frozenset(
        {JobState.RUNNING, JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLING}
    ),
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLING}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED, JobState.SUCCEEDED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.REJECTED: frozenset(),
}


def may_follow(before: JobState, after: JobState) -> bool:
    """Say whether a job in `before` may go to `after`."""
    return after in _NEXT[before]


class RunState(StrEnum):
    """Where a run stands; the trainer's contract describes each."""

    ACCEPTED = "accepted"
    STARTING = "starting"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.LOST})


class ConditionType(StrEnum):
    """What can stand in a job's way or be under way; the contract describes each."""

    WAITING = "waiting"
    NO_NODES = "no_nodes"
    NODE_UNREACHABLE = "node_unreachable"
    TRAINER_DOWN = "trainer_down"
    FETCHING_DATA = "fetching_data"
    DOWNLOADING_WEIGHTS = "downloading_weights"
    BUILDING = "building"
    RETRYING = "retrying"
    ESTIMATOR_UNAVAILABLE = "estimator_unavailable"
