"""grpc.health.v1, answering for the server (``""``) and for each of its services."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import partial

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.interception import Context

_Status = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):
    """Says SERVING from `serve` to `drain`, and NOT_SERVING before and after.

    grpcio's own asyncio servicer forgets whom to notify once one of several watchers of a service has left:
    those that stay would never hear of the drain, and lose requests.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(["", *services])
        self._serving = False
        self._closed = False
        self._changed = asyncio.Condition()

    async def serve(self) -> None:
        """Say SERVING from now on."""
        self._serving = True
        await self._notify()

    async def drain(self) -> None:
        """Say NOT_SERVING from now on."""
        self._serving = False
        await self._notify()

    async def close(self) -> None:
        """End every watch, which would otherwise use up the grace that calls get at the stop."""
        self._closed = True
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> _Status:
        """Answer at once."""
        status = self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r} here")
        return _Status(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> AsyncIterator[_Status]:
        """Answer now and whenever the answer changes."""
        last = None
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._has_news, request.service, last))
            # Outside of the lock: a caller that reads slowly must not keep the others from hearing the news.
            if self._closed:
                return
            last = self._status(request.service)
            yield _Status(status=last)

    def _has_news(self, service: str, last: int | None) -> bool:
        return self._closed or self._status(service) != last
