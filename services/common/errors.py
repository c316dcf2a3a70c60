"""Every way in which a call can fail, as classes with fields.

ServiceError
├── InvalidRequest, InvalidSpec, InvalidModel, InvalidDataset, DigestMismatch, InvalidCursor,
│   PromptTooLong                                                                          INVALID_ARGUMENT
├── Unauthenticated                                                                        UNAUTHENTICATED
├── PermissionDenied                                                                       PERMISSION_DENIED
├── NotFound                                                                               NOT_FOUND
├── AlreadyExists, RequestIdReused                                                         ALREADY_EXISTS
├── WrongState, ApprovalRefused, StaleAttempt, NoReservation, InUse, InsufficientDisk,
│   MustWait, DoesNotFit                                                                   FAILED_PRECONDITION
├── WrongOffset                                                                            OUT_OF_RANGE
├── QuotaExceeded, TooLarge                                                                RESOURCE_EXHAUSTED
├── PeerUnavailable, Draining                                                              UNAVAILABLE
├── NotAvailable                                                                           UNIMPLEMENTED
├── DeadlineExceeded, Idle                                                                 DEADLINE_EXCEEDED
├── Internal                                                                               INTERNAL
└── RemoteError (a peer's error that this version has no class for; keeps its code)

A class's fields are the metadata keys that weighbridge.errors.v1.Reason names beside its reason, and its text
says what happened, what the limit was and what to do next. How a *job* fails is no status: see `failures`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar


class Code(StrEnum):
    """The gRPC status codes that services answer with, by name."""

    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    ABORTED = "ABORTED"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"
    DATA_LOSS = "DATA_LOSS"
    UNAUTHENTICATED = "UNAUTHENTICATED"


class ServiceError(Exception):
    """A failure that the caller is told about. Subclasses are dataclasses with a `reason` and a `code`."""

    reason: str
    code: Code
    # Fields that travel in another detail than ErrorInfo's metadata.
    _elsewhere: ClassVar[frozenset[str]] = frozenset()

    @property
    def metadata(self) -> dict[str, str]:
        """The fields as ErrorInfo carries them."""
        return {name: str(getattr(self, name)) for name in self._names() if name not in self._elsewhere}

    def _names(self) -> list[str]:
        return [item.name for item in fields(self)]  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args`, which lack what was given by keyword: an error
        # raised in a child process would not arrive.
        return _rebuild, (type(self), {name: getattr(self, name) for name in self._names()})


def _rebuild(cls: type[ServiceError], values: dict[str, Any]) -> ServiceError:
    return cls(**values)


# `eq=False`, here and below: with a generated `__eq__` an exception could not be hashed.
@dataclass(eq=False)
class InvalidRequest(ServiceError):
    """The request breaks a rule of its contract: `violations` maps a field's path to its fault."""

    reason = "INVALID_REQUEST"
    code = Code.INVALID_ARGUMENT
    _elsewhere = frozenset({"violations"})
    violations: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            "; ".join(f"{name}: {text}" for name, text in self.violations.items()) or "the request is invalid"
        )


@dataclass(eq=False)
class InvalidSpec(ServiceError):
    """A training spec contradicts itself or names something impossible."""

    reason = "INVALID_SPEC"
    code = Code.INVALID_ARGUMENT
    field: str
    value: object
    limit: object

    def __str__(self) -> str:
        return f"{self.field} is {self.value}, but {self.limit}"


@dataclass(eq=False)
class InvalidModel(ServiceError):
    """The model cannot be read."""

    reason = "INVALID_MODEL"
    code = Code.INVALID_ARGUMENT
    model: str
    detail: str

    def __str__(self) -> str:
        return f"model {self.model}: {self.detail}"


@dataclass(eq=False)
class InvalidDataset(ServiceError):
    """An uploaded data set breaks a rule: `item` names the file, line or column."""

    reason = "INVALID_DATASET"
    code = Code.INVALID_ARGUMENT
    item: str
    limit: object
    actual: object

    def __str__(self) -> str:
        return f"{self.item}: {self.limit}, but found {self.actual}"


@dataclass(eq=False)
class DigestMismatch(ServiceError):
    """The bytes do not have the digest that was announced for them."""

    reason = "DIGEST_MISMATCH"
    code = Code.INVALID_ARGUMENT
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"the bytes have the digest {self.actual}, not {self.expected}: send them again"


@dataclass(eq=False)
class InvalidCursor(ServiceError):
    """A cursor or page token was not issued by this service, or for another request."""

    reason = "INVALID_CURSOR"
    code = Code.INVALID_ARGUMENT
    token: str

    def __str__(self) -> str:
        return f"the cursor {self.token!r} was not issued for this request: start without one"


@dataclass(eq=False)
class PromptTooLong(ServiceError):
    """A conversation has more tokens than the model, or the memory reserved for it, can hold."""

    reason = "PROMPT_TOO_LONG"
    code = Code.INVALID_ARGUMENT
    limit: int
    actual: int

    def __str__(self) -> str:
        return (
            f"the conversation has {self.actual} tokens with this message, and there is room for "
            f"{self.limit}, the answer included: say less, or begin again, with a longer context where "
            "the model has one"
        )


@dataclass(eq=False)
class Unauthenticated(ServiceError):
    """No token came with the call, or one that belongs to nobody."""

    reason = "UNAUTHENTICATED"
    code = Code.UNAUTHENTICATED

    def __str__(self) -> str:
        return "the call needs a valid token: send it as the metadata `authorization: Bearer TOKEN`"


@dataclass(eq=False)
class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_DENIED"
    code = Code.PERMISSION_DENIED
    identity: str
    method: str

    def __str__(self) -> str:
        return f"the identity {self.identity} may not call {self.method}: ask for it in the identities file"


@dataclass(eq=False)
class NotFound(ServiceError):
    """There is no such resource, or it belongs to a project that the caller cannot see."""

    reason = "NOT_FOUND"
    code = Code.NOT_FOUND
    resource: str

    def __str__(self) -> str:
        return f"{self.resource} does not exist"


@dataclass(eq=False)
class AlreadyExists(ServiceError):
    """A resource of that name exists."""

    reason = "ALREADY_EXISTS"
    code = Code.ALREADY_EXISTS
    resource: str

    def __str__(self) -> str:
        return f"{self.resource} exists already"


@dataclass(eq=False)
class RequestIdReused(ServiceError):
    """The request id was used before, with another body."""

    reason = "REQUEST_ID_REUSED"
    code = Code.ALREADY_EXISTS
    request_id: str
    resource: str

    def __str__(self) -> str:
        return f"request id {self.request_id} made {self.resource} from another request: choose a new one"


@dataclass(eq=False)
class WrongState(ServiceError):
    """The resource is in a state that does not allow the call."""

    reason = "WRONG_STATE"
    code = Code.FAILED_PRECONDITION
    resource: str
    state: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.resource} is {self.state}; the call is allowed in {self.allowed}"


@dataclass(eq=False)
class ApprovalRefused(ServiceError):
    """An approval is missing, forged, expired, used, or for another node, run or spec."""

    reason = "APPROVAL_REFUSED"
    code = Code.FAILED_PRECONDITION
    run: str
    detail: str

    def __str__(self) -> str:
        return f"the approval of {self.run} is refused: {self.detail}"


@dataclass(eq=False)
class StaleAttempt(ServiceError):
    """The attempt was released, cancelled or superseded."""

    reason = "STALE_ATTEMPT"
    code = Code.FAILED_PRECONDITION
    run: str
    highest_attempt: int

    def __str__(self) -> str:
        return f"{self.run} is over: attempts up to {self.highest_attempt} were released or cancelled"


@dataclass(eq=False)
class NoReservation(ServiceError):
    """No reservation stands for the run."""

    reason = "NO_RESERVATION"
    code = Code.FAILED_PRECONDITION
    run: str

    def __str__(self) -> str:
        return f"no reservation stands for {self.run}: reserve its memory first"


@dataclass(eq=False)
class InUse(ServiceError):
    """Another resource still needs this one."""

    reason = "IN_USE"
    code = Code.FAILED_PRECONDITION
    resource: str
    user: str

    def __str__(self) -> str:
        return f"{self.resource} is still used by {self.user}"


@dataclass(eq=False)
class InsufficientDisk(ServiceError):
    """The node's disk has no room for it (both in bytes); nothing was begun."""

    reason = "INSUFFICIENT_DISK"
    code = Code.FAILED_PRECONDITION
    resource: str
    needed_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        gib = 1 << 30
        return (
            f"{self.resource} needs {self.needed_bytes / gib:.2f} GiB more on the node's disk, which has "
            f"{self.free_bytes / gib:.2f} GiB free: delete models or finished jobs, or choose another node"
        )


@dataclass(eq=False)
class MustWait(ServiceError):
    """What the call would load fits a node, but not into what is free there now: `detail` is the verdict."""

    reason = "MUST_WAIT"
    code = Code.FAILED_PRECONDITION
    resource: str
    detail: str

    def __str__(self) -> str:
        return f"{self.resource} {self.detail}"


@dataclass(eq=False)
class DoesNotFit(ServiceError):
    """No node's capacity holds what the call would load: `detail` is the verdict."""

    reason = "DOES_NOT_FIT"
    code = Code.FAILED_PRECONDITION
    resource: str
    detail: str

    def __str__(self) -> str:
        return f"{self.resource} {self.detail}"


@dataclass(eq=False)
class WrongOffset(ServiceError):
    """A chunk does not begin where the committed bytes end."""

    reason = "WRONG_OFFSET"
    code = Code.OUT_OF_RANGE
    upload: str
    offset: int
    committed_size: int

    def __str__(self) -> str:
        return f"{self.upload} holds {self.committed_size} bytes: go on from there, not from {self.offset}"


@dataclass(eq=False)
class QuotaExceeded(ServiceError):
    """A quota of the caller is used up (never a full cluster); it may try again in `retry_after_s`."""

    reason = "QUOTA_EXCEEDED"
    code = Code.RESOURCE_EXHAUSTED
    _elsewhere = frozenset({"retry_after_s"})
    quota: str
    limit: object
    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return f"the quota {self.quota} allows {self.limit}: try again in {self.retry_after_s:g} s"


@dataclass(eq=False)
class TooLarge(ServiceError):
    """A message or an upload is larger than allowed (both in bytes)."""

    reason = "TOO_LARGE"
    code = Code.RESOURCE_EXHAUSTED
    limit: int
    actual: int

    def __str__(self) -> str:
        return f"{self.actual} bytes are more than the {self.limit} allowed: send them in smaller pieces"


@dataclass(eq=False)
class PeerUnavailable(ServiceError):
    """The node, or the service behind this one, cannot be reached."""

    reason = "PEER_UNAVAILABLE"
    code = Code.UNAVAILABLE
    target: str

    def __str__(self) -> str:
        return f"{self.target} cannot be reached: try again"


@dataclass(eq=False)
class Draining(ServiceError):
    """The service is about to stop."""

    reason = "DRAINING"
    code = Code.UNAVAILABLE

    def __str__(self) -> str:
        return "the service is draining: try again, another replica answers"


@dataclass(eq=False)
class NotAvailable(ServiceError):
    """This version does not offer what was asked for."""

    reason = "NOT_AVAILABLE"
    code = Code.UNIMPLEMENTED
    detail: str

    def __str__(self) -> str:
        return self.detail


@dataclass(eq=False)
class DeadlineExceeded(ServiceError):
    """The caller's deadline passed before the work was done."""

    reason = "DEADLINE_EXCEEDED"
    code = Code.DEADLINE_EXCEEDED

    def __str__(self) -> str:
        return "the deadline passed before the work was done: allow more time"


@dataclass(eq=False)
class Idle(ServiceError):
    """Nobody said anything for longer than a conversation may rest."""

    reason = "IDLE"
    code = Code.DEADLINE_EXCEEDED
    limit_s: int

    def __str__(self) -> str:
        return f"nobody said anything for {self.limit_s} s, so the memory was given back: begin again"


@dataclass(eq=False)
class Internal(ServiceError):
    """A defect of the service; its log holds the rest under `request_id`."""

    reason = "INTERNAL"
    code = Code.INTERNAL
    request_id: str

    def __str__(self) -> str:
        return f"internal error: the service's log has it under request id {self.request_id}"


@dataclass(eq=False)
class RemoteError(ServiceError):
    """A peer's error that this version has no class for."""

    _elsewhere = frozenset({"reason", "code", "message", "details"})
    reason: str
    code: Code
    message: str
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """What the peer sent."""
        return dict(self.details)

    def __str__(self) -> str:
        return self.message


# What a peer's reason becomes here.
BY_REASON: dict[str, type[ServiceError]] = {
    cls.reason: cls for cls in ServiceError.__subclasses__() if cls is not RemoteError
}
