"""What the service says to the child of a conversation: a line of JSON each, on its standard input."""

import json
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, BinaryIO, NamedTuple


class Said(NamedTuple):
    """A message of the user, and which one it is."""

    text: str
    number: int


class Requests:
    """Reads in a thread of its own: an answer is stopped while it is being written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._messages: SimpleQueue[Said | None] = SimpleQueue()
        self._received = 0
        self._stopped = 0
        self.opening: dict[str, Any] = json.loads(stream.readline())
        """What the first line says: which model, how, and how much memory."""
        threading.Thread(target=self._read, name="requests", daemon=True).start()

    def messages(self) -> Iterator[Said]:
        """Yield what the user says, in order, until the service says no more."""
        while (said := self._messages.get()) is not None:
            yield said

    def is_stopped(self, said: Said) -> bool:
        """Say whether the answer to a message is not wanted any more."""
        # Counted, not flagged: a stop that comes late must not end the answer to the next message.
        return said.number <= self._stopped

    def _read(self) -> None:
        for line in self._stream:
            request = json.loads(line)
            if "message" in request:
                self._received += 1
                self._messages.put(Said(request["message"], self._received))
            else:
                self._stopped = self._received
        self._messages.put(None)
