"""The connection to the gateway: one channel, and every call with the token, a deadline and typed errors."""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc

from weighbridge import __version__
from weighbridge._errors import call_error
from weighbridge.config import Config
from weighbridge.exceptions import NotConfigured
from weighbridge.gateway.v1 import service_pb2_grpc

Req = TypeVar("Req")
Res = TypeVar("Res")

TIMEOUT_S = 60.0
# gRPC's own health checks take a gateway that drains out of the choice before it refuses anything.
_TRAINING = "weighbridge.gateway.v1.TrainingService"
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": _TRAINING},
    "methodConfig": [
        # An upload goes on from its committed size, which a replay of buffered chunks would not know.
        {"name": [{"service": _TRAINING, "method": "WriteUpload"}]},
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # The one status that says that nothing was done (AIP-194).
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        },
    ],
}
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
    ("grpc.primary_user_agent", f"weighbridge-python/{__version__}"),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    # Without it a frozen gateway is noticed after 70 s, with it after 13.
    ("grpc.http2.ping_timeout_ms", 3_000),
    # A gateway that comes back is found again within two seconds, not two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Link:
    """A channel to the gateway. Threads may share it."""

    def __init__(self, config: Config) -> None:
        self.target = config.target
        self._channel = _channel(config)
        self._metadata = (("authorization", f"Bearer {config.token}"),)
        self.training = service_pb2_grpc.TrainingServiceStub(self._channel)
        self.fleet = service_pb2_grpc.FleetServiceStub(self._channel)

    def call(
        self, method: "grpc.UnaryUnaryMultiCallable[Req, Res]", request: Req, timeout_s: float = TIMEOUT_S
    ) -> Res:
        """Return the answer. Raises the CallError that the failure stands for."""
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise call_error(error, self.target) from error

    def stream(
        self, method: "grpc.UnaryStreamMultiCallable[Req, Res]", request: Req, timeout_s: float | None = None
    ) -> Iterator[Res]:
        """Yield the answers; leaving the iterator ends the call. Raises as `call` does."""
        call = method(request, timeout=timeout_s, metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise call_error(error, self.target) from error
        finally:
            call.cancel()

    def send(
        self,
        method: "grpc.StreamUnaryMultiCallable[Req, Res]",
        requests: Iterable[Req],
        timeout_s: float,
        on_sent: Callable[[Req], None],
    ) -> Res:
        """Send a stream and return the one answer. Raises as `call` does, and what `on_sent` raises."""
        sent: SimpleQueue[Req | None] = SimpleQueue()
        future = method.future(_noting(requests, sent), timeout=timeout_s, metadata=self._metadata)
        future.add_done_callback(lambda _: sent.put(None))
        try:
            # gRPC takes the requests in a thread of its own, where an error of the caller's would get lost.
            while (request := sent.get()) is not None:
                on_sent(request)
            return future.result()
        except grpc.RpcError as error:
            raise call_error(error, self.target) from error
        finally:
            future.cancel()

    def converse(self, method: "grpc.StreamStreamMultiCallable[Req, Res]", requests: Iterator[Req]) -> Any:
        """Begin a call in which both sides speak: an iterator of answers, to be cancelled at the end.

        Its errors are the caller's to translate: they come where it is read.
        """
        return method(requests, metadata=self._metadata)

    def close(self) -> None:
        """Close the channel; calls under way end."""
        self._channel.close()


def _noting(requests: Iterable[Req], sent: "SimpleQueue[Req | None]") -> Iterator[Req]:
    for request in requests:
        yield request
        sent.put(request)


def _channel(config: Config) -> grpc.Channel:
    if config.ca_file is None and all(map(_is_loopback, _hosts(config.target))):
        return grpc.insecure_channel(config.target, options=_OPTIONS)
    if config.ca_file is None:
        raise NotConfigured(
            f"a token must not go to {config.target} in plaintext: set WEIGHBRIDGE_TLS_CA to the certificate "
            "(PEM) of the authority that certifies it"
        )
    credentials = grpc.ssl_channel_credentials(config.ca_file.read_bytes())
    return grpc.secure_channel(config.target, credentials, options=_OPTIONS)


def _hosts(target: str) -> list[str]:
    addresses = re.sub(r"^(dns|ipv4|ipv6):(//[^/]*/)?", "", target)
    return [address.rpartition(":")[0] for address in addresses.split(",")]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
