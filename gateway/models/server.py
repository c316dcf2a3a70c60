"""The methods of FleetService that are about the nodes' caches of the hub's models."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from gateway.ledger.engine import Ledger
from gateway.models.peers import Caches
from gateway.peers import Peers
from services.common.interception import Context
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc


class ModelMethods(service_pb2_grpc.FleetServiceServicer):
    """Passes on what the nodes' trainers do."""

    def __init__(self, ledger: Ledger, peers: Peers) -> None:
        self._caches = Caches(ledger, peers)

    async def PullModel(
        self, request: service_pb2.PullModelRequest, context: Context
    ) -> AsyncIterator[service_pb2.PullModelResponse]:
        """Bring a model onto a node."""
        async with aclosing(self._caches.pull(request)) as told:
            async for response in told:
                yield response

    async def ListModels(
        self, request: service_pb2.ListModelsRequest, context: Context
    ) -> service_pb2.ListModelsResponse:
        """List what nodes have."""
        return await self._caches.page(request)

    async def DeleteModel(
        self, request: service_pb2.DeleteModelRequest, context: Context
    ) -> service_pb2.DeleteModelResponse:
        """Remove a model from a node."""
        return await self._caches.delete(request)
