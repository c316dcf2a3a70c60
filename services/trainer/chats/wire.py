"""Conversations as messages, and what comes in as the trainer's own."""

from collections.abc import AsyncIterator
from typing import Any

from services.common.chat import TurnEnd
from services.common.errors import InvalidRequest
from services.common.wire import to_domain, to_message
from services.trainer.chats.records import Answer, Message, Opening, Ready, Refusal, Said, Stop, Text
from weighbridge.common.v1 import artifacts_pb2, chat_pb2
from weighbridge.trainer.v1 import service_pb2


async def read_opening(requests: AsyncIterator[service_pb2.ChatRequest]) -> Opening:
    """Return a call's first message. Raises InvalidRequest where it is none that opens a conversation."""
    first = await anext(aiter(requests), None)
    if first is None or not first.HasField("opening"):
        raise InvalidRequest({"opening": "a conversation begins with it"})
    try:
        return to_domain(Opening, first.opening)
    except ValueError as error:
        raise InvalidRequest({"opening": str(error)}) from None


async def read_said(requests: AsyncIterator[service_pb2.ChatRequest]) -> AsyncIterator[Said]:
    """Yield what the user says after the opening. Raises InvalidRequest at another opening."""
    async for request in requests:
        kind = request.WhichOneof("request")
        if kind == "opening":
            raise InvalidRequest({"opening": "it comes first, and once"})
        if kind == "message" and request.message.role != chat_pb2.CHAT_ROLE_USER:
            raise InvalidRequest({"message.role": "it is the user's: the system's stands in the opening"})
        yield Message(request.message.content) if kind == "message" else Stop()


def answer_to_message(answer: Answer) -> service_pb2.ChatResponse:
    """Return what comes back as a message: its kind names the field."""
    if isinstance(answer, Text):
        return service_pb2.ChatResponse(text=answer.text)
    parts: dict[str, Any] = {}
    if isinstance(answer, Ready):
        parts["ready"] = to_message(answer, service_pb2.ChatReady)
    elif isinstance(answer, TurnEnd):
        parts["turn_end"] = to_message(answer, chat_pb2.TurnEnd)
    elif isinstance(answer, Refusal):
        parts["refusal"] = to_message(answer.failure, artifacts_pb2.Failure)
    return service_pb2.ChatResponse(**parts)
