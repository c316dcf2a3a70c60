"""The method of TrainingService that talks."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from gateway.chats.model import Wanted
from gateway.chats.peers import TrainerTalk, trainer_opening
from gateway.chats.place import ChatDesk, Place
from gateway.dispatch.peers import Nodes
from gateway.ledger.engine import Ledger
from gateway.peers import Peers
from gateway.weighing.peers import Estimator
from services.common.errors import InvalidRequest
from services.common.interception import Context
from services.common.wire import to_domain
from weighbridge.common.v1 import training_spec_pb2
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc
from weighbridge.trainer.v1 import service_pb2 as trainer_pb2


class ChatMethods(service_pb2_grpc.TrainingServiceServicer):
    """Conversations with the models of jobs."""

    def __init__(self, ledger: Ledger, peers: Peers) -> None:
        self._talk_peers = peers
        self._desk = ChatDesk(ledger, peers, Estimator(peers), Nodes(peers))

    async def Chat(
        self, request: AsyncIterator[service_pb2.ChatRequest], context: Context
    ) -> AsyncIterator[service_pb2.ChatResponse]:
        """Find room for a model, have it loaded there, and pass on what both sides say."""
        opening = await _opening(request)
        async with (
            self._desk.reserved(to_domain(Wanted, opening)) as place,
            aclosing(self._talk(place, opening, request)) as answers,
        ):
            async for answer in answers:
                yield _response(place, answer)

    async def _talk(
        self, place: Place, opening: service_pb2.ChatOpening, said: AsyncIterator[service_pb2.ChatRequest]
    ) -> AsyncGenerator[trainer_pb2.ChatResponse]:
        asked = trainer_opening(place.run, place.approval.message, place.resolved, opening)
        place.handed_over = True
        talk = TrainerTalk(self._talk_peers, place.node.trainer_address)
        async with aclosing(talk.answers(asked, said)) as answers:
            async for answer in answers:
                yield answer


async def _opening(requests: AsyncIterator[service_pb2.ChatRequest]) -> service_pb2.ChatOpening:
    first = await anext(aiter(requests), None)
    if first is None or not first.HasField("opening"):
        raise InvalidRequest({"opening": "a conversation begins with it"})
    return first.opening


def _response(place: Place, answer: trainer_pb2.ChatResponse) -> service_pb2.ChatResponse:
    kind = answer.WhichOneof("response")
    if kind == "text":
        return service_pb2.ChatResponse(text=answer.text)
    if kind == "turn_end":
        return service_pb2.ChatResponse(turn_end=answer.turn_end)
    if kind == "refusal":
        return service_pb2.ChatResponse(refusal=answer.refusal)
    ready = service_pb2.ChatReady(
        node=place.node.name,
        run=place.run,
        summary=place.summary,
        reserved_bytes=place.reserved_bytes,
        device=training_spec_pb2.DeviceKind.Value(f"DEVICE_KIND_{place.approval.device.upper()}"),
        context_tokens=answer.ready.context_tokens,
        notices=answer.ready.notices,
    )
    return service_pb2.ChatResponse(ready=ready)
