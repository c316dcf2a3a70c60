"""Word of changes between tasks of this process.

A signal says only that there may be something new in the ledger: who misses one, or runs in another replica,
finds the news at the next tick. Progress is the exception; it is worth nothing a second later, so it travels
in the signal.
"""

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_KEPT = 256


class Listener(Generic[T]):
    """Hears one topic from its creation on."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.items: deque[T] = deque(maxlen=_KEPT)
        """What was published and not taken yet, the newest if there was too much."""

    async def wait(self, timeout_s: float) -> None:
        """Return when the topic was signalled since the last return, at the latest after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        self._event.clear()

    def wake(self, items: Iterable[T] = ()) -> None:
        """Let `wait` return."""
        self.items.extend(items)
        self._event.set()


class Signals(Generic[T]):
    """Who listens to what."""

    def __init__(self) -> None:
        self._listeners: dict[str, set[Listener[T]]] = defaultdict(set)

    @contextlib.contextmanager
    def listen(self, *topics: str) -> Iterator[Listener[T]]:
        """Yield a listener of these topics."""
        listener = Listener[T]()
        for topic in topics:
            self._listeners[topic].add(listener)
        try:
            yield listener
        finally:
            for topic in topics:
                self._forget(topic, listener)

    def _forget(self, topic: str, listener: Listener[T]) -> None:
        self._listeners[topic].discard(listener)
        if not self._listeners[topic]:
            del self._listeners[topic]

    def notify(self, topics: Iterable[str]) -> None:
        """Wake who listens to one of the topics."""
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.wake()

    def publish(self, topic: str, item: T) -> None:
        """Wake who listens to the topic and hand over `item`."""
        for listener in self._listeners.get(topic, ()):
            listener.wake((item,))
