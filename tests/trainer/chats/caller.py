"""What a gateway says to a trainer in a chat, in few words."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psutil

from services.trainer.chats.process import MARK
from tests.trainer.chats.artifacts import chat_spec
from tests.trainer.fake_node import approval
from tests.trainer.harness import Trainer
from weighbridge.common.v1 import chat_pb2
from weighbridge.trainer.v1 import service_pb2

_numbers = itertools.count(10_000)


def new_run() -> str:
    """Return the name of a run that no other chat has."""
    return f"runs/chat{next(_numbers):016d}-1"


class Caller:
    """One call: what is said goes out at once, what comes back is read one by one."""

    def __init__(self, trainer: Trainer, run: str, opening: service_pb2.ChatOpening) -> None:
        self.run = run
        self._requests: asyncio.Queue[service_pb2.ChatRequest | None] = asyncio.Queue()
        self._send(opening=opening)
        self.call: Any = trainer.stub.Chat(self._sent())
        self._answers = aiter(self.call)

    async def ready(self) -> service_pb2.ChatReady:
        """Wait until the model is loaded."""
        answer = await anext(self._answers)
        assert answer.HasField("ready"), answer
        ready: service_pb2.ChatReady = answer.ready
        return ready

    async def next(self) -> service_pb2.ChatResponse:
        """Return the next answer of any kind."""
        answer: service_pb2.ChatResponse = await anext(self._answers)
        return answer

    def say(self, text: str) -> None:
        """Send a message of the user."""
        message = chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content=text)
        self._send(message=message)

    def stop(self) -> None:
        """Have the answer stopped."""
        self._send(stop=service_pb2.ChatStop())

    def say_no_more(self) -> None:
        """Close the sending half."""
        self._requests.put_nowait(None)

    async def turn(self) -> tuple[str, chat_pb2.TurnEnd]:
        """Return an answer's text and its end."""
        text = ""
        while True:
            answer = await self.next()
            if answer.HasField("turn_end"):
                return text, answer.turn_end
            assert answer.WhichOneof("response") == "text", answer
            text += answer.text

    async def ask(self, text: str) -> str:
        """Say something and return the answer."""
        self.say(text)
        return (await self.turn())[0]

    async def rest(self) -> list[service_pb2.ChatResponse]:
        """Return everything until the call ends."""
        return [answer async for answer in self._answers]

    def _send(self, **request: Any) -> None:
        self._requests.put_nowait(service_pb2.ChatRequest(**request))

    async def _sent(self) -> AsyncIterator[service_pb2.ChatRequest]:
        while (request := await self._requests.get()) is not None:
            yield request


@asynccontextmanager
async def chatting(
    trainer: Trainer,
    digest: str,
    run: str = "",
    context_tokens: int = 256,
    options: chat_pb2.GenerationOptions | None = None,
    signed: Mapping[str, Any] | None = None,
) -> AsyncIterator[Caller]:
    """Open a chat with an artifact; `signed` overrides what the node has signed. Afterwards its call ends."""
    run, spec = run or new_run(), chat_spec(digest, context_tokens)
    approved = approval(**{"name": run, "spec": spec, **(signed or {})})
    opening = service_pb2.ChatOpening(
        run=run,
        approval=approved,
        resolved_spec=spec,
        options=options,
        system_prompt="be kind",
    )
    caller = Caller(trainer, run, opening)
    try:
        yield caller
    finally:
        # gRPC's own task reads what is sent: left in the middle of that, it could not be closed.
        caller.call.cancel()
        caller.say_no_more()


def children(trainer: Trainer) -> list[psutil.Process]:
    """Return the processes of a trainer's chats."""
    root = str(trainer.state / "chats")
    return [process for process in psutil.process_iter() if _mark(process).startswith(root)]


def _mark(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return process.environ().get(MARK, "")
    except psutil.Error:
        return ""
