"""The one service that a node calls: the gateway of its fleet."""

from typing import Any

import grpc.aio
from google.protobuf.message import Message

from services.common.rpc import from_rpc_error
from services.common.wire import to_domain, to_message
from services.hardware.fleet import Acknowledged, Registered
from services.hardware.resources import Node
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc
from weighbridge.hardware.v1 import resources_pb2

_TIMEOUT_S = 10.0


class Gateway:
    """The gateway at the end of a channel. Every method raises ServiceError where it refuses or is away."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        self._stub = service_pb2_grpc.FleetServiceStub(channel)
        self._target = target

    async def register(self, node: Node, *, has_journal: bool) -> Registered:
        """Enter the node; without a journal the answer's live attempts are what it must not promise again."""
        message = to_message(node, resources_pb2.Node)
        request = service_pb2.RegisterNodeRequest(node=message, has_journal=has_journal)
        return to_domain(Registered, await self._call(self._stub.RegisterNode, request))

    async def heartbeat(self, node: Node) -> Acknowledged:
        """Report the node as it is now."""
        request = service_pb2.HeartbeatNodeRequest(node=to_message(node, resources_pb2.Node))
        return to_domain(Acknowledged, await self._call(self._stub.HeartbeatNode, request))

    async def _call(self, method: Any, request: Message) -> Message:
        try:
            response: Message = await method(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._target) from error
        return response
