"""Talking to the language model that a job made.

with client.chat("k3m…") as chat:
    for piece in chat.send("What is a weighbridge?"):
        print(piece, end="", flush=True)
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import grpc

from weighbridge._errors import call_error, refusal_error
from weighbridge._link import Link
from weighbridge.common.v1.chat_pb2 import ChatMessage, ChatRole, GenerationOptions, TurnEnd
from weighbridge.common.v1.training_spec_pb2 import DeviceKind
from weighbridge.exceptions import CallError, Unavailable
from weighbridge.gateway.v1.service_pb2 import ChatOpening, ChatReady, ChatRequest, ChatResponse
from weighbridge.trainer.v1.service_pb2 import ChatStop


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """How a model is talked to; what is left out has the contract's default."""

    system_prompt: str = ""
    """What holds for the whole conversation."""
    max_new_tokens: int = 0
    """At most so many tokens an answer."""
    temperature: float | None = None
    """How freely tokens are drawn; 0: always the likeliest."""
    top_p: float | None = None
    """Only the likeliest tokens are drawn from, that together have this probability."""
    seed: int | None = None
    """With the same seed, the same conversation gets the same answers on the same machine."""
    context_tokens: int = 0
    """Tokens that the conversation may have, answers included: memory is reserved for so many."""
    device: str = ""
    """`cpu` or `cuda`; empty: as the job was trained."""

    def opening(self, job: str) -> ChatOpening:
        """Return the message that opens a chat with a job. Raises ValueError for an unknown device."""
        options = GenerationOptions(max_new_tokens=self.max_new_tokens)
        for name in ("temperature", "top_p", "seed"):
            if getattr(self, name) is not None:
                setattr(options, name, getattr(self, name))
        return ChatOpening(
            name=job,
            options=options,
            system_prompt=self.system_prompt,
            context_tokens=self.context_tokens,
            device=DeviceKind.Value(f"DEVICE_KIND_{self.device.upper() or 'UNSPECIFIED'}"),
        )


class Chat:
    """A conversation; `with` opens it and ends it, and frees its memory. One thread talks at a time."""

    def __init__(self, link: Link, opening: ChatOpening) -> None:
        self._link = link
        self._opening = opening
        self._requests: SimpleQueue[ChatRequest | None] = SimpleQueue()
        self._answers: SimpleQueue[ChatResponse | Exception] = SimpleQueue()
        self._call: Any = None
        self._unfinished = 0
        self.ready = ChatReady()
        """Where the model is loaded, what was reserved for it, and what should be known of it."""
        self.last_turn: TurnEnd | None = None
        """Why the last answer ended, and its tokens."""

    def __enter__(self) -> Self:
        """Have the model loaded; takes as long as fetching and reading it.

        Raises:
            NotFound, WrongState: the job does not exist, or made no language model.
            DoesNotFit, MustWait: no node has the memory for it, ever or now.
            InvalidRequest: the options cannot be met.
        """
        self._requests.put(ChatRequest(opening=self._opening))
        self._call = self._link.converse(self._link.training.Chat, iter(self._requests.get, None))
        threading.Thread(target=self._read, name="chat", daemon=True).start()
        try:
            self.ready = self._take().ready
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation; an answer that is being written ends too."""
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()

    def send(self, text: str) -> Iterator[str]:
        """Say something, and yield the answer piece by piece. Leaving the iterator stops the answer.

        Raises, while iterating:
            PromptTooLong: the conversation is too long with this message; it stands as before, and goes on.
            CallError: the conversation has ended.
        """
        # What is left of an answer that nobody wanted to hear to its end.
        for _ in self._until_finished():
            pass
        message = ChatMessage(role=ChatRole.CHAT_ROLE_USER, content=text)
        self._requests.put(ChatRequest(message=message))
        self._unfinished += 1
        return self._answer()

    def stop(self) -> None:
        """Stop the answer that is being written; its iterator, or `rest`, ends soon after."""
        self._requests.put(ChatRequest(stop=ChatStop()))

    def rest(self) -> Iterator[str]:
        """Yield what is left of an answer whose iterator was left, as by an exception."""
        return self._until_finished()

    def _answer(self) -> Iterator[str]:
        try:
            yield from self._until_finished()
        except GeneratorExit:
            self.stop()
            raise

    def _until_finished(self) -> Iterator[str]:
        while self._unfinished:
            answer = self._take()
            kind = answer.WhichOneof("response")
            if kind == "text":
                yield answer.text
                continue
            self._unfinished -= 1
            if kind == "turn_end":
                self.last_turn = answer.turn_end
            elif kind == "refusal":
                raise refusal_error(answer.refusal)

    def _take(self) -> ChatResponse:
        answer = self._answers.get()
        if isinstance(answer, Exception):
            # Kept for whoever asks again: the conversation does not come back.
            self._answers.put(answer)
            self._unfinished = 0
            raise answer
        return answer

    def _read(self) -> None:
        # In a thread of its own: a wait that Ctrl-C interrupts could not be taken up again in gRPC.
        ended: CallError = Unavailable("ENDED", "the conversation has ended: begin again")
        try:
            for answer in self._call:
                self._answers.put(answer)
        except grpc.RpcError as error:
            ended = call_error(error, self._link.target)
        self._answers.put(ended)
