"""Every way in which a call to the platform, or a job, can fail: one class for each situation worth catching.

WeighbridgeError
├── NotConfigured                nothing says where the platform is, or what token to use
├── SpecError                    a spec cannot be understood: every problem with its line and field
├── CorruptDownload              the bytes that arrived are not those that were stated
├── UnsafePath                   an artifact names a file outside of the directory it is downloaded to
├── NotExportable                an artifact does not hold what was asked for, such as an adapter
├── NoConverter                  the program that makes GGUF files is not installed
├── ConversionFailed             it is, and does not take the model
├── JobEnded                     `wait` was for a job that did not succeed
│   ├── JobFailed
│   ├── JobCancelled
│   └── JobRejected              it fits no node; the job's verdict says why
└── CallError                    the platform refused a call, or could not be asked
    ├── InvalidRequest           INVALID_ARGUMENT: `violations` lists the fields
    │   ├── InvalidSpec          the spec contradicts itself or names something impossible
    │   ├── InvalidModel         the model cannot be read
    │   ├── InvalidDataset       the data breaks a rule
    │   ├── DigestMismatch       the bytes received are not those that were announced
    │   ├── InvalidCursor        a cursor was made for another request
    │   └── PromptTooLong        a conversation is too long for its model, or for its memory
    ├── Unauthenticated          no token, or one that belongs to nobody
    ├── PermissionDenied         the token's owner may not do this
    ├── NotFound                 no such resource, or one of another project
    ├── AlreadyExists            a resource of that name exists
    │   └── RequestIdReused      the request id was used with another body
    ├── WrongState               FAILED_PRECONDITION: not now
    │   ├── InUse                another resource still needs this one
    │   ├── InsufficientDisk     a node's disk has no room for it
    │   ├── MustWait             what the call would load fits, but not now
    │   └── DoesNotFit           no node can hold what the call would load
    ├── WrongOffset              a chunk does not begin at the committed size
    ├── LimitExceeded            RESOURCE_EXHAUSTED
    │   ├── QuotaExceeded        a quota of the caller: `retry_after_s` says when to come back
    │   └── TooLarge             a message or an upload is larger than allowed
    ├── Unavailable              the platform cannot be reached now
    ├── NotAvailable             this version does not offer it
    ├── DeadlineExceeded         no answer came in time
    └── Internal                 a defect of the platform: its log has the request id
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weighbridge.jobs import Job


class WeighbridgeError(Exception):
    """Anything that this library raises on purpose."""


class NotConfigured(WeighbridgeError):
    """Nothing says where the platform is, or what token to use."""


@dataclass(frozen=True, order=True)
class Problem:
    """One fault of a spec."""

    line: int
    """Line of the file, 1 first; 0 where there is no file."""
    field: str
    """Path of the field, such as `training.learning_rate`; empty: the whole spec."""
    message: str
    """What is wrong, what was expected, and what was probably meant."""


class SpecError(WeighbridgeError):
    """A spec cannot be understood: `problems` lists every fault, in the order of the file."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__("\n".join(self._line(problem) for problem in problems))

    def _line(self, problem: Problem) -> str:
        place = f"{self.source}:{problem.line}" if problem.line else self.source
        return (
            f"{place}: {problem.field}: {problem.message}" if problem.field else f"{place}: {problem.message}"
        )


class CorruptDownload(WeighbridgeError):
    """The bytes of a downloaded file are not those that the platform stated; nothing was kept."""

    def __init__(self, path: str, expected: str, actual: str) -> None:
        self.path, self.expected, self.actual = path, expected, actual
        super().__init__(f"{path} arrived with {actual}, but {expected} was stated: download it again")


class UnsafePath(WeighbridgeError):
    """An artifact names a file outside of the directory it is downloaded to; nothing was written."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"the artifact names the path {path!r}, which leads out of the directory: refused")


class NotExportable(WeighbridgeError):
    """An artifact does not hold what was asked for, such as an adapter; nothing was downloaded."""


class NoConverter(WeighbridgeError):
    """The program that makes GGUF files is not installed: the text says how to."""


class ConversionFailed(WeighbridgeError):
    """The converter ended without a GGUF file: the text ends with what it said."""


class JobEnded(WeighbridgeError):
    """A job that was waited for did not succeed. `job` is the job as it ended."""

    def __init__(self, job: "Job") -> None:
        self.job = job
        failure = job.message.failure
        self.reason = failure.reason
        self.metadata = dict(failure.metadata)
        why = failure.message or job.message.verdict.summary
        super().__init__(f"job {job.id} is {job.state}" + (f": {why}" if why else ""))


class JobFailed(JobEnded):
    """The job failed: `reason`, `metadata` and the text say why."""


class JobCancelled(JobEnded):
    """The job was cancelled."""


class JobRejected(JobEnded):
    """The job fits no node: `job.message.verdict` lists every violated limit and the plans that would fit."""


@dataclass(eq=False)
class CallError(WeighbridgeError):
    """A call failed. The text says what happened, what the limit was and what to do next."""

    reason: str
    """Name of a value of weighbridge.errors.v1.Reason without its prefix, or of a gRPC status code."""
    message: str
    """For people."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The keys that the reason's comment in the contract names."""
    violations: Mapping[str, str] = field(default_factory=dict)
    """Field path to its fault, of a request that breaks its contract."""
    retry_after_s: float | None = None
    """When the platform asks to come back."""

    def __str__(self) -> str:
        return self.message


class InvalidRequest(CallError):
    """The request breaks a rule of its contract: `violations` lists the fields."""


class InvalidSpec(InvalidRequest):
    """The spec contradicts itself or names something impossible. Metadata: field, value, limit."""


class InvalidModel(InvalidRequest):
    """The model cannot be read. Metadata: model, detail."""


class InvalidDataset(InvalidRequest):
    """The data breaks a rule. Metadata: item, limit, actual."""


class DigestMismatch(InvalidRequest):
    """The bytes received are not those that were announced. Metadata: expected, actual."""


class InvalidCursor(InvalidRequest):
    """A cursor or page token was made for another request. Metadata: token."""


class PromptTooLong(InvalidRequest):
    """A conversation is too long for its model, or for the memory reserved. Metadata: limit, actual."""


class Unauthenticated(CallError):
    """There is no token, or it belongs to nobody."""


class PermissionDenied(CallError):
    """The token's owner may not do this. Metadata: identity, method."""


class NotFound(CallError):
    """There is no such resource, or it belongs to another project. Metadata: resource."""


class AlreadyExists(CallError):
    """A resource of that name exists. Metadata: resource."""


class RequestIdReused(AlreadyExists):
    """The request id was used before, with another body. Metadata: request_id, resource."""


class WrongState(CallError):
    """The resource is in a state that does not allow the call. Metadata: resource, state, allowed."""


class InUse(WrongState):
    """Another resource still needs this one. Metadata: resource, user."""


class InsufficientDisk(WrongState):
    """A node's disk has no room for it; nothing was begun. Metadata: resource, needed_bytes, free_bytes."""


class MustWait(WrongState):
    """What the call would load fits a node, but not into what is free now. Metadata: resource, detail."""


class DoesNotFit(WrongState):
    """No node can hold what the call would load; the text is the verdict. Metadata: resource, detail."""


class WrongOffset(CallError):
    """A chunk does not begin at the committed size. Metadata: upload, offset, committed_size."""


class LimitExceeded(CallError):
    """The call asks for more than is allowed."""


class QuotaExceeded(LimitExceeded):
    """A quota of the caller is used up. Metadata: quota, limit."""


class TooLarge(LimitExceeded):
    """A message or an upload is larger than allowed. Metadata: limit, actual."""


class Unavailable(CallError):
    """The platform cannot be reached now."""


class NotAvailable(CallError):
    """This version of the platform does not offer it."""


class DeadlineExceeded(CallError):
    """No answer came in time; the call may have been carried out."""


class Internal(CallError):
    """A defect of the platform: its log has more under the request id that the message names."""
