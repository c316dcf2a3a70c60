"""One conversation with a loaded model: what the caller says goes in, what the child says comes out."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.common.chat import TurnEnd
from services.common.errors import Idle, NoReservation, ServiceError
from services.trainer.chats.process import ChatProcess
from services.trainer.chats.records import Answer, Message, Ready, Refusal, Said
from services.trainer.node import DeviceAmount

log = logging.getLogger(__name__)

_REPORT_S = 2.0
Report = Callable[[Sequence[DeviceAmount]], Awaitable[None]]


@dataclass(frozen=True)
class _Spoke:
    """The caller said something that has an answer."""


@dataclass(frozen=True)
class _Over:
    """Nothing more will come; `error` says why, where it is not simply the end."""

    error: Exception | None = None


_Event = Answer | _Spoke | _Over


class Talk:
    """Passes messages between a caller and a child, for as long as both stay."""

    def __init__(
        self, process: ChatProcess, said: AsyncIterator[Said], report: Report, idle_s: float
    ) -> None:
        """`report` is told what the child uses; `idle_s` is how long the caller may say nothing."""
        self._process = process
        self._said = said
        self._report = report
        self._idle_s = idle_s
        self._events: asyncio.Queue[_Event] = asyncio.Queue()

    async def answers(self) -> AsyncGenerator[Answer]:
        """Yield what the child says, until both have said everything.

        Raises:
            Idle: the caller said nothing for too long.
            NoReservation: the node does not know any more what was promised.
            ServiceError: whatever else ends the conversation.
        """
        tasks = [asyncio.create_task(each()) for each in (self._hear, self._listen, self._tell_usage)]
        try:
            # Loading counts as an answer: nobody is waited for meanwhile.
            unanswered = 1
            while True:
                event = await self._next(resting=unanswered == 0)
                if isinstance(event, _Over):
                    if event.error is not None:
                        raise event.error
                    return
                if isinstance(event, _Spoke):
                    unanswered += 1
                    continue
                if isinstance(event, Ready | TurnEnd | Refusal):
                    unanswered -= 1
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next(self, *, resting: bool) -> _Event:
        try:
            async with asyncio.timeout(self._idle_s if resting else None):
                return await self._events.get()
        except TimeoutError:
            raise Idle(limit_s=round(self._idle_s)) from None

    async def _hear(self) -> None:
        try:
            async for said in self._said:
                if isinstance(said, Message):
                    # Before the child hears of it: its answer must not be counted first.
                    self._events.put_nowait(_Spoke())
                await self._process.say(said)
        except ServiceError as error:
            self._events.put_nowait(_Over(error))
        else:
            self._process.say_no_more()

    async def _listen(self) -> None:
        try:
            async for answer in self._process.answers():
                self._events.put_nowait(answer)
        except (ServiceError, ValueError, KeyError) as error:
            self._events.put_nowait(_Over(error))
        else:
            self._events.put_nowait(_Over())

    async def _tell_usage(self) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            used = await asyncio.to_thread(self._process.usage)
            try:
                await self._report(used)
            except NoReservation as error:
                # The node has lost its journal: what this chat uses may be promised to somebody else.
                self._events.put_nowait(_Over(error))
            except ServiceError as error:
                log.info("usage not reported", extra={"error": str(error)})
