"""The calls that would go on for ever, and how they end when the server drains."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.common.errors import Draining

_ENDLESS = ("Watch", "Stream", "Chat")


@dataclass
class _Mark:
    writing: bool = False
    ended: bool = False


class Watches:
    """Calls of `Watch…`, `Stream…` and `Chat` methods: at the drain they end; their callers go on elsewhere.

    Other calls (an upload, say) get the grace that the server gives to end by themselves.
    """

    def __init__(self) -> None:
        self._marks: dict[asyncio.Task[object], _Mark] = {}

    @contextmanager
    def entered(self, method: str) -> Iterator[None]:
        """Keep the current task as one to be ended, if the full method name says that it would not end.

        Raises:
            Draining: it was ended.
        """
        task = asyncio.current_task()
        if task is None or not method.rpartition("/")[2].startswith(_ENDLESS):
            yield
            return
        mark = self._marks[task] = _Mark()
        try:
            yield
        except asyncio.CancelledError:
            if not mark.ended:
                raise
            # Without it the task still counts as cancelled, and a later timeout in it would misbehave.
            task.uncancel()
            raise Draining from None
        finally:
            del self._marks[task]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Put the end off while a message is sent: grpc cannot send a status beside it. Raises Draining."""
        task = asyncio.current_task()
        mark = self._marks.get(task) if task is not None else None
        if mark is None:
            yield
            return
        mark.writing = True
        try:
            yield
        finally:
            mark.writing = False
        if mark.ended:
            raise Draining

    def end(self) -> None:
        """End them all."""
        # A task that sends sees its mark when it has sent.
        for task, mark in self._marks.items():
            mark.ended = True
            if not mark.writing:
                task.cancel()
