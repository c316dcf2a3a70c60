"""As much of a gateway as a node speaks to: it remembers who registered and what they reported."""

import contextlib
from collections.abc import AsyncIterator

import grpc.aio

from services.common.wire import to_domain
from services.hardware.resources import Node
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc


class SampleGateway(service_pb2_grpc.FleetServiceServicer):
    """Answers with `live_attempts`; `forget` makes it ask for a registration again."""

    def __init__(self) -> None:
        self.live_attempts: list[service_pb2.LiveAttempt] = []
        self.registrations: list[tuple[Node, bool]] = []
        self.reports: list[Node] = []
        self.tokens: set[str] = set()
        self.forget = False
        self.heartbeat_s = 60
        self.lease_s = 0

    async def RegisterNode(self, request, context):  # type: ignore[no-untyped-def]
        """Enter a node."""
        self.registrations.append((to_domain(Node, request.node), request.has_journal))
        self.tokens.add(dict(context.invocation_metadata())["authorization"])
        self.forget = False
        response = service_pb2.RegisterNodeResponse(live_attempts=self.live_attempts)
        response.heartbeat_interval.FromSeconds(self.heartbeat_s)
        response.node_lease.FromSeconds(self.lease_s)
        return response

    async def HeartbeatNode(self, request, context):  # type: ignore[no-untyped-def]
        """Take a report."""
        self.reports.append(to_domain(Node, request.node))
        if self.forget:
            return service_pb2.HeartbeatNodeResponse(register_again=True)
        response = service_pb2.HeartbeatNodeResponse()
        response.node_lease.FromSeconds(self.lease_s)
        return response


@contextlib.asynccontextmanager
async def gateway(port: int = 0) -> AsyncIterator[tuple[SampleGateway, str]]:
    """Serve a gateway on loopback; yields it and its address."""
    servicer, server = SampleGateway(), grpc.aio.server()
    service_pb2_grpc.add_FleetServiceServicer_to_server(servicer, server)
    chosen = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield servicer, f"127.0.0.1:{chosen}"
    finally:
        await server.stop(0)
