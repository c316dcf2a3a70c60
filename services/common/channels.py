"""Channels to other services: balanced, health-checked, retrying where that is safe.

What the call being served knows is passed on with each call made for it: its request id, its trace, and
what is left of its deadline, which gRPC does not forward by itself.
"""

import json
import re
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from services.common.auth import AUTHORIZATION_KEY, caller_metadata
from services.common.context import REQUEST_ID_KEY, current_request_id, time_remaining_s
from services.common.settings import is_loopback
from services.common.telemetry import trace_metadata

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server that drains says so here first, and is not chosen any more.
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                # Each hop tries again: more attempts here multiply.
                "maxAttempts": 4,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # The one status that says that nothing was done (AIP-194).
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    # A frozen peer is noticed after 13 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A peer that comes back is found again within two seconds, not two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def connect(
    target: str, *, token: str | None = None, tls: Path | None = None, forward_caller: bool = False
) -> grpc.aio.Channel:
    """Return a channel to `target`: `host:port`, or a gRPC name. `async with` closes it.

    `token` is this service's own. `tls` is the certificate, PEM, of the authority that certifies the
    target; without it the channel is in plaintext. `forward_caller` (the gateway alone is believed) tells
    for whom each call is made.

    Raises:
        ValueError: a token would leave this machine in plaintext.
    """
    if tls is None and token is not None and not all(map(is_loopback, _hosts(target))):
        raise ValueError(f"a token must not go to {target} in plaintext: set WEIGHBRIDGE_TLS_CA")
    kinds = (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    interceptors = [kind(token, forward_caller) for kind in kinds]
    if tls is None:
        return grpc.aio.insecure_channel(target, options=OPTIONS, interceptors=interceptors)
    credentials = grpc.ssl_channel_credentials(root_certificates=tls.read_bytes())
    return grpc.aio.secure_channel(target, credentials, options=OPTIONS, interceptors=interceptors)


def _hosts(target: str) -> list[str]:
    addresses = re.sub(r"^(dns|ipv4|ipv6):(//[^/]*/)?", "", target)
    return [address.rpartition(":")[0] for address in addresses.split(",")]


class _Outgoing:
    """Adds to each call what every call carries."""

    def __init__(self, token: str | None, forward_caller: bool) -> None:
        self._token = token
        self._forward_caller = forward_caller

    def _completed(self, details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        # A copy: the caller may use its metadata for several calls, and each would add to it.
        metadata = grpc.aio.Metadata(*(details.metadata or ()))
        for key, value in self._additions():
            metadata.add(key, value)
        return grpc.aio.ClientCallDetails(
            details.method,
            _timeout_s(details.timeout),
            metadata,
            details.credentials,
            details.wait_for_ready,
        )

    def _additions(self) -> list[tuple[str, str]]:
        added = [*trace_metadata()]
        if self._token is not None:
            added.append((AUTHORIZATION_KEY, f"Bearer {self._token}"))
        if current_request_id():
            added.append((REQUEST_ID_KEY, current_request_id()))
        if self._forward_caller:
            added.extend(caller_metadata())
        return added


def _timeout_s(asked_s: float | None) -> float | None:
    limits = [limit for limit in (asked_s, time_remaining_s()) if limit is not None]
    return min(limits, default=None)


# One class for each kind of call: grpc files an interceptor under the first kind that it is an instance of.
class _UnaryUnary(_Outgoing, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request)


class _UnaryStream(_Outgoing, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request)


class _StreamUnary(_Outgoing, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request_iterator)


class _StreamStream(_Outgoing, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(self._completed(client_call_details), request_iterator)
