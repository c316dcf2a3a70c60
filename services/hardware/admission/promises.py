"""The book of reservations and its journal, changed together: first the disk, then the memory."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from services.hardware.admission.journal import Journal
from services.hardware.admission.reservations import Book, Entry, Event, Held

log = logging.getLogger(__name__)

# Lines that a journal may have beyond twice what its book needs, before it is written anew.
_SLACK = 1000


class Promises:
    """What a node has promised. Blocks while it reads the journal; one process at a time may have a
    directory.

    Raises:
        RuntimeError: another process has it.
    """

    def __init__(self, directory: Path, held_ttl_s: float) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(directory)
        self.book = Book(self._journal.load(), held_ttl_s)

    @property
    def known(self) -> bool:
        """Whether there is a journal. Without one nothing may be promised."""
        return self._journal.exists

    def close(self) -> None:
        """Let another process have the journal."""
        self._journal.close()

    async def write(self, *events: Event) -> None:
        """Make events last, then count them. Raises OSError where the disk refuses; nothing changes then."""
        # Before the journal begins only releases come here: they are remembered until it does.
        if self.known:
            await asyncio.to_thread(self._journal.append, events)
        for event in events:
            self.book.apply(event)
        await self._compact()

    async def adopt(self, live: Sequence[Entry]) -> None:
        """Begin a journal with the runs that the gateway says live here. No effect where there is one."""
        if self.known:
            return
        for entry in live:
            # Released while the journal was not known yet: the gateway will hear of it too.
            if self.book.highest_released(entry.run) is None:
                self.book.apply(Held(entry))
        await asyncio.to_thread(self._journal.replace, list(self.book.events()))
        log.info("journal begun", extra={"live_runs": [entry.run for entry in live]})

    async def _compact(self) -> None:
        if self.known and self._journal.lines > _SLACK:
            events = list(self.book.events())
            if self._journal.lines > 2 * len(events) + _SLACK:
                await asyncio.to_thread(self._journal.replace, events)
