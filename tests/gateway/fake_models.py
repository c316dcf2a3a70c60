"""A trainer's cache of the hub, without a hub: it holds what a test put there."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from services.common.errors import InUse, NotFound
from tests.gateway.faults import refuse
from weighbridge.trainer.v1 import resources_pb2, service_pb2, service_pb2_grpc

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIB = 1 << 20


class FakeModels(service_pb2_grpc.TrainerServiceServicer):
    """The part of a fake trainer that is about models."""

    def __init__(self) -> None:
        self.models: list[resources_pb2.CachedModel] = []
        self.pulls: list[service_pb2.PullModelRequest] = []
        self.pulls_hang = False
        """Whether a download stops half-way."""
        self.pulls_left = 0
        """How many callers left theirs."""

    def give(self, repository: str, revision: str = COMMIT, *runs: str) -> None:
        """Put a model into the cache."""
        model = resources_pb2.CachedModel(
            repository=repository, revision=revision, size_bytes=4 * MIB, file_count=3, runs=runs
        )
        self.models.append(model)

    async def PullModel(
        self, request: service_pb2.PullModelRequest, context: Any
    ) -> AsyncIterator[service_pb2.PullModelResponse]:
        self.pulls.append(request)
        for done in (0, 2, 4):
            progress = resources_pb2.PullProgress(
                revision=COMMIT, done_bytes=done * MIB, total_bytes=4 * MIB, file="model.safetensors"
            )
            yield service_pb2.PullModelResponse(progress=progress)
            if done and self.pulls_hang:
                try:
                    await asyncio.Event().wait()
                finally:
                    self.pulls_left += 1
        self.give(request.repository)
        yield service_pb2.PullModelResponse(model=self.models[-1])

    async def ListModels(
        self, request: service_pb2.ListModelsRequest, context: Any
    ) -> service_pb2.ListModelsResponse:
        return service_pb2.ListModelsResponse(models=self.models)

    async def DeleteModel(
        self, request: service_pb2.DeleteModelRequest, context: Any
    ) -> service_pb2.DeleteModelResponse:
        found = [model for model in self.models if model.repository == request.repository]
        if not found:
            await refuse(context, NotFound(request.repository))
        if found[0].runs:
            await refuse(context, InUse(request.repository, found[0].runs[0]))
        self.models = [model for model in self.models if model not in found]
        freed = sum(model.size_bytes for model in found)
        return service_pb2.DeleteModelResponse(models=found, freed_bytes=freed)
