"""The methods of TrainerService that are about the hub's cache."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from services.common.interception import Context
from services.trainer.models.models import Models
from services.trainer.models.wire import model_to_message, pulled_to_message
from weighbridge.trainer.v1 import service_pb2, service_pb2_grpc


class ModelMethods(service_pb2_grpc.TrainerServiceServicer):
    """Models, brought here ahead of the jobs that need them."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def PullModel(
        self, request: service_pb2.PullModelRequest, context: Context
    ) -> AsyncIterator[service_pb2.PullModelResponse]:
        """Bring a model here."""
        pulling = self._models.pull(
            request.repository, request.revision, request.project, request.token_secret
        )
        async with aclosing(pulling) as told:
            async for each in told:
                yield pulled_to_message(each)

    async def ListModels(
        self, request: service_pb2.ListModelsRequest, context: Context
    ) -> service_pb2.ListModelsResponse:
        """List what is here."""
        return service_pb2.ListModelsResponse(models=map(model_to_message, await self._models.list()))

    async def DeleteModel(
        self, request: service_pb2.DeleteModelRequest, context: Context
    ) -> service_pb2.DeleteModelResponse:
        """Remove a model."""
        removal = await self._models.delete(request.repository, request.revision)
        return service_pb2.DeleteModelResponse(
            models=map(model_to_message, removal.models), freed_bytes=removal.freed_bytes
        )
