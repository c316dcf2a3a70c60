"""Domain errors as gRPC statuses with google.rpc details, and back."""

import logging
import re

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from services.common.context import current_request_id
from services.common.errors import (
    BY_REASON,
    Code,
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotAvailable,
    PeerUnavailable,
    QuotaExceeded,
    RemoteError,
    ServiceError,
    TooLarge,
    Unauthenticated,
)

log = logging.getLogger(__name__)

DOMAIN = "weighbridge"
DETAILS_KEY = "grpc-status-details-bin"
# At 9 kB of trailers calls begin to end in another status at random. The details travel in base64 and the
# message beside them once more, so the status itself keeps well below 6 KiB.
STATUS_LIMIT_BYTES = 4096
_MESSAGE_LIMIT_BYTES = 512
_VALUE_LIMIT_BYTES = 256
_TOO_LARGE = re.compile(r"larger than max \((\d+) vs\. (\d+)\)")


def status_of(error: ServiceError) -> status_pb2.Status:
    """Return the status of an error, with at most STATUS_LIMIT_BYTES of message and details together."""
    status = status_pb2.Status(code=number_of(error.code), message=_cut(str(error), _MESSAGE_LIMIT_BYTES))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    # Eight keys of these lengths and the message stay below the limit together.
    for key, value in list(error.metadata.items())[:8]:
        info.metadata[_cut(key, 64)] = _cut(value, _VALUE_LIMIT_BYTES)
    status.details.append(_packed(info))
    if isinstance(error, QuotaExceeded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(error.retry_after_s * 1e9))
        status.details.append(_packed(retry))
    if isinstance(error, InvalidRequest):
        status.details.append(_packed(_bad_request(error, STATUS_LIMIT_BYTES - status.ByteSize())))
    return status


def _bad_request(error: InvalidRequest, limit_bytes: int) -> error_details_pb2.BadRequest:
    """List as many violations as fit, and how many do not."""
    bad = error_details_pb2.BadRequest()
    # Kept free for the line that says how many are missing, and for the lengths around it.
    room = limit_bytes - 128
    for index, (name, text) in enumerate(error.violations.items()):
        violation = bad.field_violations.add(
            field=_cut(name, _VALUE_LIMIT_BYTES), description=_cut(text, _VALUE_LIMIT_BYTES)
        )
        if bad.ByteSize() > room:
            violation.field = "…"
            violation.description = f"and {len(error.violations) - index} more"
            break
    return bad


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed


def _cut(text: str, limit_bytes: int) -> str:
    data = text.encode(errors="replace")
    if len(data) <= limit_bytes:
        return data.decode()
    return data[: limit_bytes - 3].decode(errors="ignore") + "…"


def number_of(code: Code) -> int:
    """Return gRPC's number of a code."""
    number: int = grpc.StatusCode[code.value].value[0]
    return number


def from_rpc_error(error: grpc.aio.AioRpcError, target: str = "the peer") -> ServiceError:
    """Return a failed call's error as the class that the peer raised.

    A peer that refuses this service's own token is a defect of the installation, not of whoever is being
    served: it comes back as Internal. `target` names the peer where the call did not reach it.
    """
    status = _status_sent(error)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _rebuilt(info, status, Code(error.code().name))
    return _without_details(error, target)


def _status_sent(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _rebuilt(info: error_details_pb2.ErrorInfo, status: status_pb2.Status, code: Code) -> ServiceError:
    cls = BY_REASON.get(info.reason)
    unknown = RemoteError(info.reason, code, status.message, dict(info.metadata))
    if cls is None:
        return unknown
    if cls is Unauthenticated:
        return _misconfigured()
    try:
        return cls(**_fields(cls, info, status))
    except (TypeError, ValueError):
        # A peer of another version may send other keys.
        return unknown


def _fields(
    cls: type[ServiceError], info: error_details_pb2.ErrorInfo, status: status_pb2.Status
) -> dict[str, object]:
    # Metadata is text; a field that is a number here becomes one again.
    types = cls.__annotations__
    fields: dict[str, object] = {k: int(v) if types.get(k) is int else v for k, v in info.metadata.items()}
    for detail in status.details:
        retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(retry):
            fields["retry_after_s"] = retry.retry_delay.ToNanoseconds() / 1e9
        elif detail.Unpack(bad):
            fields["violations"] = {item.field: item.description for item in bad.field_violations}
    return fields


def _without_details(error: grpc.aio.AioRpcError, target: str) -> ServiceError:
    """Return the error of a status that gRPC itself made, or a peer that is none of ours."""
    code, text = Code(error.code().name), error.details() or ""
    if code in (Code.UNAVAILABLE, Code.CANCELLED):
        log.info("peer unavailable", extra={"target": target, "detail": text})
        return PeerUnavailable(target)
    if code is Code.DEADLINE_EXCEEDED:
        return DeadlineExceeded()
    if code is Code.UNAUTHENTICATED:
        return _misconfigured()
    if code is Code.UNIMPLEMENTED:
        return NotAvailable(text or f"{target} does not offer this")
    sizes = _TOO_LARGE.search(text)
    if code is Code.RESOURCE_EXHAUSTED and sizes is not None:
        return TooLarge(limit=int(sizes[2]), actual=int(sizes[1]))
    return RemoteError(code.value, code, text)


def _misconfigured() -> ServiceError:
    log.error("the peer refuses this service's own token: compare the token with the peer's identities file")
    return Internal(current_request_id())
