"""The trainers of the nodes, asked for their caches of the hub's models."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

import grpc.aio

from gateway.ledger.engine import Ledger
from gateway.models.nodes import EVERY, trainer_on, trainers
from gateway.peers import Peers, ask
from gateway.scope import enter
from services.common.errors import DeadlineExceeded, NotAvailable, PeerUnavailable
from services.common.names import parse_project
from services.common.pages import decode_token, encode_token, page_size
from services.common.rpc import from_rpc_error
from weighbridge.gateway.v1 import resources_pb2, service_pb2
from weighbridge.trainer.v1 import resources_pb2 as trainer_resources_pb2
from weighbridge.trainer.v1 import service_pb2 as trainer_pb2

_POSITION = {"node": str, "repository": str, "revision": str}
# Of one node among several: it costs the others' answers nothing.
_UNREACHABLE = (PeerUnavailable, DeadlineExceeded, NotAvailable)


class Caches:
    """Fills, lists and empties the nodes' caches."""

    def __init__(self, ledger: Ledger, peers: Peers) -> None:
        self._ledger = ledger
        self._peers = peers

    async def pull(
        self, request: service_pb2.PullModelRequest
    ) -> AsyncGenerator[service_pb2.PullModelResponse]:
        """Yield what the node's trainer tells; leaving ends its download."""
        asked = trainer_pb2.PullModelRequest(
            repository=request.repository,
            revision=request.revision,
            project=_project(request),
            token_secret=request.token_secret,
        )
        address = await trainer_on(self._ledger, request.parent)
        call: Any = self._peers.trainer(address).PullModel(asked)
        try:
            async for response in call:
                yield _pulled(request.parent, response)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, request.parent) from error
        finally:
            call.cancel()

    async def page(self, request: service_pb2.ListModelsRequest) -> service_pb2.ListModelsResponse:
        """Return a page of one node's models, or of all nodes'."""
        scope = f"models {request.parent}"
        token, limit = request.page_token, page_size(request.page_size)
        after = _position(decode_token(token, _POSITION, scope)) if token else ("", "", "")
        if request.parent == EVERY:
            models, unreachable = await self._everywhere()
        else:
            models, unreachable = await self._on(request.parent), []
        rest = [model for model in sorted(models, key=_place) if _place(model) > after]
        response = service_pb2.ListModelsResponse(models=rest[:limit], unreachable=unreachable)
        if len(rest) > limit:
            position = dict(zip(_POSITION, _place(rest[limit - 1]), strict=True))
            response.next_page_token = encode_token(position, scope)
        return response

    async def delete(self, request: service_pb2.DeleteModelRequest) -> service_pb2.DeleteModelResponse:
        """Remove a model from a node."""
        asked = trainer_pb2.DeleteModelRequest(repository=request.repository, revision=request.revision)
        answer = await self._ask(request.parent, "DeleteModel", asked)
        removed = _of_node(request.parent, answer.models)
        return service_pb2.DeleteModelResponse(models=removed, freed_bytes=answer.freed_bytes)

    async def _everywhere(self) -> tuple[list[resources_pb2.NodeModel], list[str]]:
        addresses, unreachable = await trainers(self._ledger)
        found: list[resources_pb2.NodeModel] = []
        answers = await asyncio.gather(*map(self._on, addresses), return_exceptions=True)
        for node, answer in zip(addresses, answers, strict=True):
            if isinstance(answer, _UNREACHABLE):
                unreachable.append(node)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += answer
        return found, sorted(unreachable)

    async def _on(self, node: str) -> list[resources_pb2.NodeModel]:
        answer = await self._ask(node, "ListModels", trainer_pb2.ListModelsRequest())
        return _of_node(node, answer.models)

    async def _ask(self, node: str, method: str, request: Any) -> Any:
        stub = self._peers.trainer(await trainer_on(self._ledger, node))
        # A child process starts for it, and a model of many files is not removed at once.
        return await ask(getattr(stub, method), request, node, self._peers.estimate_timeout_s)


def _project(request: service_pb2.PullModelRequest) -> str:
    if not (request.project or request.token_secret):
        return ""
    project = parse_project(request.project, "project")
    # Its secrets are nobody else's.
    enter(project)
    return project


def _pulled(node: str, told: trainer_pb2.PullModelResponse) -> service_pb2.PullModelResponse:
    if told.HasField("model"):
        return service_pb2.PullModelResponse(model=resources_pb2.NodeModel(node=node, model=told.model))
    return service_pb2.PullModelResponse(progress=told.progress)


def _of_node(node: str, models: Iterable[trainer_resources_pb2.CachedModel]) -> list[resources_pb2.NodeModel]:
    return [resources_pb2.NodeModel(node=node, model=model) for model in models]


def _position(decoded: Mapping[str, Any]) -> tuple[str, str, str]:
    return decoded["node"], decoded["repository"], decoded["revision"]


def _place(each: resources_pb2.NodeModel) -> tuple[str, str, str]:
    return each.node, each.model.repository, each.model.revision
