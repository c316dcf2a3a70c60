"""What surrounds every call: request id, log, metrics and trace, then errors' mapping, then authentication.

This is the one place that catches every exception.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import grpc.aio

from services.common import metrics, telemetry
from services.common.auth import Identities, current_caller, set_caller
from services.common.context import REQUEST_ID_KEY, current_request_id, enter_call, time_remaining_s
from services.common.errors import DeadlineExceeded, Internal, ServiceError
from services.common.interception import Context
from services.common.rpc import DETAILS_KEY, from_rpc_error, status_of
from services.common.watches import Watches

log = logging.getLogger(__name__)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallGuard:
    """Surrounds each call of a server; see the module."""

    def __init__(self, identities: Identities, watches: Watches) -> None:
        self._identities = identities
        self._watches = watches

    @asynccontextmanager
    async def surround(self, method: str, context: Context) -> AsyncIterator[None]:
        """Serve one call of the full method name inside the block."""
        metadata = tuple(context.invocation_metadata() or ())
        enter_call(str(dict(metadata).get(REQUEST_ID_KEY, "")), context.time_remaining())
        # Outermost, so that a refused call is counted and logged as well.
        with _observed(method, context, metadata):
            try:
                set_caller(self._identities.admit(method, metadata))
                with self._watches.entered(method):
                    yield
            except grpc.aio.AbortError:
                # The status was sent already.
                raise
            # Nothing may leave a service unmapped: whatever an exception says is for the log alone.
            except Exception as error:  # noqa: BLE001
                await _abort(context, _mapped(error))


@contextmanager
def _observed(method: str, context: Context, metadata: tuple[tuple[str, str | bytes], ...]) -> Iterator[None]:
    """Count, time, trace and log the call of the block."""
    begin = time.monotonic()
    telemetry.start_call(method, metadata)
    in_flight = metrics.IN_FLIGHT.labels(method)
    in_flight.inc()
    code = "OK"
    try:
        yield
        code = _code(context)
    except asyncio.CancelledError:
        # The caller left, or its deadline passed: nothing is wrong here.
        code = "DEADLINE_EXCEEDED" if time_remaining_s() == 0 else "CANCELLED"
        raise
    except grpc.aio.AbortError:
        code = _code(context)
        raise
    finally:
        duration_s = time.monotonic() - begin
        in_flight.dec()
        metrics.CALLS.labels(method, code).inc()
        metrics.DURATION.labels(method).observe(duration_s)
        telemetry.end_call(code)
        fields = {"method": method, "code": code, "caller": _caller(), "duration_s": round(duration_s, 4)}
        log.log(logging.DEBUG if code == "OK" else logging.INFO, "call ended", extra=fields)


def _code(context: Context) -> str:
    code = context.code()
    # grpc gives the number that was set, whatever its annotation says.
    return (code if isinstance(code, grpc.StatusCode) else _CODES.get(code, grpc.StatusCode.OK)).name


def _caller() -> str:
    try:
        caller = current_caller()
    except LookupError:
        return ""
    return f"{caller.identity}/{caller.name}"


def _mapped(error: Exception) -> ServiceError:
    """Return what the caller gets to know of an exception."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if isinstance(error, TimeoutError) and time_remaining_s() == 0:
        return DeadlineExceeded()
    log.error("unexpected exception", exc_info=error)
    return Internal(current_request_id())


async def _abort(context: Context, error: ServiceError) -> None:
    status = status_of(error)
    await context.abort(_CODES[status.code], status.message, ((DETAILS_KEY, status.SerializeToString()),))
