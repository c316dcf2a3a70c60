"""Failed calls as the classes of `exceptions`: by reason where this version knows it, else by status code."""

import re
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from weighbridge import exceptions as e
from weighbridge.common.v1.artifacts_pb2 import Failure

DOMAIN = "weighbridge"
_DETAILS_KEY = "grpc-status-details-bin"

# Reasons whose class is not already that of their status code.
BY_REASON: dict[str, type[e.CallError]] = {
    "INVALID_SPEC": e.InvalidSpec,
    "INVALID_MODEL": e.InvalidModel,
    "INVALID_DATASET": e.InvalidDataset,
    "DIGEST_MISMATCH": e.DigestMismatch,
    "INVALID_CURSOR": e.InvalidCursor,
    "PROMPT_TOO_LONG": e.PromptTooLong,
    "REQUEST_ID_REUSED": e.RequestIdReused,
    "IN_USE": e.InUse,
    "INSUFFICIENT_DISK": e.InsufficientDisk,
    "MUST_WAIT": e.MustWait,
    "DOES_NOT_FIT": e.DoesNotFit,
    "QUOTA_EXCEEDED": e.QuotaExceeded,
    "TOO_LARGE": e.TooLarge,
}
BY_CODE: dict[grpc.StatusCode, type[e.CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: e.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: e.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: e.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: e.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: e.AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: e.WrongState,
    grpc.StatusCode.OUT_OF_RANGE: e.WrongOffset,
    grpc.StatusCode.RESOURCE_EXHAUSTED: e.LimitExceeded,
    grpc.StatusCode.UNAVAILABLE: e.Unavailable,
    # This library cancels no call that it still waits for: a server that stops does.
    grpc.StatusCode.CANCELLED: e.Unavailable,
    grpc.StatusCode.UNIMPLEMENTED: e.NotAvailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: e.DeadlineExceeded,
    grpc.StatusCode.INTERNAL: e.Internal,
}
_OVERSIZE = re.compile(r"larger than max")


def call_error(error: grpc.RpcError, target: str) -> e.CallError:
    """Return the exception that a failed call to `target` becomes."""
    code, text = error.code(), error.details() or ""
    status = _status_sent(error)
    info, violations, retry_after_s = _details(status)
    if info is None:
        return _without_details(code, text, target)
    kind = BY_REASON.get(info.reason) or BY_CODE.get(code, e.CallError)
    return kind(info.reason, status.message or text, dict(info.metadata), violations, retry_after_s)


def refusal_error(refusal: Failure) -> e.CallError:
    """Return the exception that a refused message of a conversation becomes: the call itself goes on."""
    kind = BY_REASON.get(refusal.reason, e.InvalidRequest)
    keys = dict(refusal.metadata)
    return kind(refusal.reason, refusal.message, keys, keys if kind is e.InvalidRequest else {})


def _without_details(code: grpc.StatusCode, text: str, target: str) -> e.CallError:
    """Return the exception of a status that gRPC itself made."""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _OVERSIZE.search(text):
        return e.TooLarge("TOO_LARGE", f"the message is too large for one call: {text}")
    kind = BY_CODE.get(code, e.CallError)
    if kind is e.Unavailable:
        text = f"the platform at {target} cannot be reached: is it running? ({text})"
    elif kind is e.DeadlineExceeded:
        text = f"the platform at {target} did not answer in time"
    return kind(code.name, text or code.name)


def _status_sent(error: grpc.RpcError) -> status_pb2.Status:
    # Pairs, whatever the type stubs say.
    trailing: Any = error.trailing_metadata()
    for key, value in trailing or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _details(
    status: status_pb2.Status,
) -> tuple[error_details_pb2.ErrorInfo | None, dict[str, str], float | None]:
    info: error_details_pb2.ErrorInfo | None = None
    violations: dict[str, str] = {}
    retry_after_s: float | None = None
    for detail in status.details:
        found, bad, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(found) and found.domain == DOMAIN:
            info = found
        elif detail.Unpack(bad):
            violations = {item.field: item.description for item in bad.field_violations}
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return info, violations, retry_after_s
