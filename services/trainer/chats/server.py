"""The method of TrainerService that talks."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from services.common.interception import Context
from services.trainer.chats.chats import Chats
from services.trainer.chats.wire import answer_to_message, read_opening, read_said
from services.trainer.reports import NodeReports
from weighbridge.trainer.v1 import service_pb2, service_pb2_grpc


class ChatMethods(service_pb2_grpc.TrainerServiceServicer):
    """Conversations with artifacts."""

    def __init__(self, chats: Chats, reports: NodeReports) -> None:
        self._chats = chats
        self._node = reports

    async def Chat(
        self, request: AsyncIterator[service_pb2.ChatRequest], context: Context
    ) -> AsyncIterator[service_pb2.ChatResponse]:
        """Load an artifact and talk."""
        opening = await read_opening(request)
        talk = self._chats.talk(opening, self._node.node_name, read_said(request))
        async with aclosing(talk) as answers:
            async for answer in answers:
                yield answer_to_message(answer)
