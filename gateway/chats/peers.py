"""The estimator and the trainers, as conversations ask them."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

import grpc.aio

from gateway.chats.model import Model, Wanted
from gateway.packed import Packed
from gateway.peers import Peers, ask
from services.common.errors import InvalidRequest, ServiceError
from services.common.rpc import from_rpc_error
from weighbridge.common.v1 import artifacts_pb2, training_spec_pb2
from weighbridge.gateway.v1 import service_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.hardware.v1 import service_pb2 as hardware_service_pb2
from weighbridge.trainer.v1 import service_pb2 as trainer_pb2


@dataclass(frozen=True)
class ChatEstimate:
    """What a conversation loads and needs."""

    resolved: bytes
    """Signed with the approval: it names the artifact."""
    estimate: Packed


async def estimate_chat(peers: Peers, model: Model, wanted: Wanted) -> ChatEstimate:
    """Return what talking to a model needs.

    Raises:
        InvalidModel: the job's artifact holds no whole language model.
        InvalidRequest: the context is longer than the model can hold.
    """
    kind = "UNSPECIFIED" if wanted.device is None else wanted.device.upper()
    request = hardware_service_pb2.EstimateChatRequest(
        resolved_spec=model.resolved,
        artifact=artifacts_pb2.FileTree.FromString(model.artifact),
        context_tokens=wanted.context_tokens,
        device=training_spec_pb2.DeviceKind.Value(f"DEVICE_KIND_{kind}"),
    )
    method, target = peers.estimator.EstimateChat, peers.estimator_target
    answer = await ask(method, request, target, peers.estimate_timeout_s)
    return ChatEstimate(answer.resolved_spec, Packed(answer.estimate.SerializeToString()))


async def reach(peers: Peers, address: str) -> None:
    """Return once a trainer answers. Raises PeerUnavailable."""
    request = trainer_pb2.ListRunsRequest(page_size=1)
    await ask(peers.trainer(address).ListRuns, request, address, peers.timeout_s)


class TrainerTalk:
    """One conversation on a trainer: the caller's messages go there, its answers come back."""

    def __init__(self, peers: Peers, address: str) -> None:
        self._peers = peers
        self._address = address
        self._fault: ServiceError | None = None

    async def answers(
        self, opening: trainer_pb2.ChatOpening, said: AsyncIterator[service_pb2.ChatRequest]
    ) -> AsyncGenerator[trainer_pb2.ChatResponse]:
        """Yield what the trainer says. Raises the ServiceError that ended it, on either side."""
        call = self._peers.trainer(self._address).Chat(self._requests(opening, said))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._fault or from_rpc_error(error, self._address) from error
        finally:
            # Also when the caller has left: the trainer ends the process then.
            call.cancel()
        if self._fault is not None:
            raise self._fault

    async def _requests(
        self, opening: trainer_pb2.ChatOpening, said: AsyncIterator[service_pb2.ChatRequest]
    ) -> AsyncIterator[trainer_pb2.ChatRequest]:
        yield trainer_pb2.ChatRequest(opening=opening)
        try:
            async for request in said:
                if request.HasField("opening"):
                    raise InvalidRequest({"opening": "it comes first, and once"})
                yield _passed_on(request)
        except ServiceError as error:
            # gRPC reads these in a task of its own, where an error of the caller's would get lost.
            self._fault = error


def trainer_opening(
    run: str, approval: Packed, resolved: bytes, opening: service_pb2.ChatOpening
) -> trainer_pb2.ChatOpening:
    """Return the opening that a trainer takes."""
    return trainer_pb2.ChatOpening(
        run=run,
        approval=hardware_pb2.Approval.FromString(approval),
        resolved_spec=resolved,
        options=opening.options,
        system_prompt=opening.system_prompt,
    )


def _passed_on(request: service_pb2.ChatRequest) -> trainer_pb2.ChatRequest:
    if request.HasField("message"):
        return trainer_pb2.ChatRequest(message=request.message)
    return trainer_pb2.ChatRequest(stop=request.stop)
