"""A service's server: bound, guarded, observed, and drained without losing a request.

A service's own server.py builds its servicers and ends in `asyncio.run(run(settings, servicers))`.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common import logs, metrics, telemetry
from services.common.auth import Identities
from services.common.calls import CallGuard
from services.common.health import Health
from services.common.interception import SurroundingInterceptor
from services.common.settings import CommonSettings
from services.common.validation import RequestValidator
from services.common.watches import Watches

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4 << 20
HEALTH_NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
OPTIONS: tuple[tuple[str, int], ...] = (
    # Otherwise two servers share a port in silence, and each gets half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Channels come back now and then, so that replicas added later get their share. The grace stays at its
    # default, endless: a watch that lasts longer is not cut off.
    ("grpc.max_connection_age_ms", 10 * 60 * 1000),
    ("grpc.keepalive_time_ms", 10_000),
    # Without it a frozen peer is noticed after 70 s, with it after 13.
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # How often clients may ping: as often as `channels` makes them, with room to spare.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

Background = Callable[[], Coroutine[Any, Any, None]]


class Registered(NamedTuple):
    """A servicer and how it is added to a server."""

    add: Callable[[Any, grpc.aio.Server], None]
    """The generated `add_…Servicer_to_server`."""
    servicer: object
    """The servicer."""
    name: str
    """The service's full name, `weighbridge.hardware.v1.NodeService`."""


async def run(
    settings: CommonSettings,
    servicers: Sequence[Registered],
    *,
    background: Sequence[Background] = (),
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    `background` work starts once the server answers and is cancelled once it has stopped; `on_stop` comes
    last. Work that fails stops the server, and its exception leaves this function: a service without its
    background is none.

    Raises:
        RuntimeError: the port is taken.
        ValueError, OSError: the identities file cannot be read.
    """
    service = servicers[0].name
    logs.configure(service, settings.log_format, settings.log_level)
    telemetry.configure(service, settings.otlp_endpoint)
    metrics.serve(settings.host, settings.metrics_port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with _serving(settings, servicers):
            await _work(background, stop)
    finally:
        if on_stop is not None:
            await on_stop()


@contextlib.asynccontextmanager
async def _serving(settings: CommonSettings, servicers: Sequence[Registered]) -> AsyncIterator[None]:
    watches = Watches()
    guard = CallGuard(Identities.load(settings.identities_file), watches)
    health = Health(registered.name for registered in servicers)
    interceptor = SurroundingInterceptor(guard.surround, RequestValidator().check, watches.writing)
    server = _build(interceptor, health, servicers)
    port = _bind(server, settings)
    probes = _probe_server(health, settings.health_port)
    # Both tell the same health: NOT_SERVING until the line after next.
    for each in (server, probes):
        await each.start()
    await health.serve()
    log.info("serving", extra={"address": f"{settings.host}:{port}", "services": [r.name for r in servicers]})
    try:
        yield
    finally:
        # This order and no other: clients stop choosing this server before it stops taking calls.
        await health.drain()
        log.info("draining", extra={"drain_s": settings.drain_s, "grace_s": settings.grace_s})
        await asyncio.sleep(settings.drain_s)
        watches.end()
        await health.close()
        await server.stop(settings.grace_s)
        await probes.stop(0)
        log.info("stopped")


def _build(
    interceptor: SurroundingInterceptor, health: Health, servicers: Sequence[Registered]
) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=[interceptor], options=OPTIONS)
    for registered in servicers:
        registered.add(registered.servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    names = [registered.name for registered in servicers]
    reflection.enable_server_reflection([*names, HEALTH_NAME, reflection.SERVICE_NAME], server)
    return server


def _bind(server: grpc.aio.Server, settings: CommonSettings) -> int:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    if settings.tls_cert is None or settings.tls_key is None:
        return server.add_insecure_port(address)
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))


def _probe_server(health: Health, port: int) -> grpc.aio.Server:
    """Return a server of the health service alone: a container's probes speak neither TLS nor tokens."""
    server = grpc.aio.server(options=OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if port:
        server.add_insecure_port(f"[::]:{port}")
    return server


async def _work(background: Sequence[Background], stop: asyncio.Event) -> None:
    """Run the background until `stop`, or until one of it fails."""
    tasks = [asyncio.create_task(start()) for start in background]
    # Work may end by itself; only its failure, or the signal, ends the service.
    stopping = asyncio.create_task(stop.wait())
    waiting = {stopping, *tasks}
    try:
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
