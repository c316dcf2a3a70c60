"""A run's journal as the service's tasks use it: appended to by one, watched by many."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from services.common.errors import InvalidCursor, NotFound
from services.common.pages import decode_token
from services.common.specs import Checkpoint
from services.trainer.finishing import finished
from services.trainer.runs.directory import RunDirectory, RunRecord
from services.trainer.runs.folding import advance, fold, public_event
from services.trainer.runs.journal import Entry, Journal, numbered
from services.trainer.runs.records import FINAL, Event, Run, RunEvent, StateChange, may_follow

# Entries that a watcher gets between two looks at the file.
_BATCH = 256


class EventLog:
    """The events of one run, and what they add up to."""

    def __init__(self, record: RunRecord, journal: Journal) -> None:
        self.record = record
        self._journal = journal
        # Folded on demand: most runs ended long ago, and nobody asks.
        self._run: Run | None = None
        self._appending = asyncio.Lock()
        self._news = asyncio.Condition()
        self._closed = False

    @classmethod
    def open(cls, directory: RunDirectory) -> "EventLog":
        """Open a run's journal. Blocks."""
        return cls(directory.record(), Journal(directory.journal_file))

    @property
    def last(self) -> Entry:
        """The newest entry."""
        return self._journal.last

    @property
    def ended(self) -> bool:
        """Whether the run is in a final state."""
        return _ends(self.last)

    async def run(self) -> Run:
        """Return the run as it is now. An old run's journal is read only when it is asked for."""
        async with self._appending:
            return await self._folded()

    async def append(self, *events: Event, worker_offset: int | None = None) -> None:
        """Add events; `worker_offset` is how far they take the journal into the worker's own.

        A state that cannot follow the present one is left out: it was told before a crash, or comes too late.
        """
        offset = self.last.worker_offset if worker_offset is None else worker_offset
        await self.append_each([(event, offset) for event in events])

    async def append_each(self, events: Sequence[tuple[Event, int]]) -> None:
        """Add events as `append` does, each with the worker's offset after it."""
        await finished(self._append(events))

    async def watch(self, cursor: str) -> AsyncIterator[RunEvent]:
        """Yield every event after the cursor, and new ones as they come, until the last.

        Raises:
            InvalidCursor: it is not one of this run's.
            NotFound: the run was deleted meanwhile.
        """
        seq, position = self._seq(cursor), None
        while not (self.ended and seq == self.last.seq):
            await self._wait_for_entry_after(seq)
            entries, position = await asyncio.to_thread(self._journal.read, seq, _BATCH, position)
            for entry in entries:
                seq = entry.seq
                yield public_event(self.record.run, entry)

    async def close(self) -> None:
        """End the watches of a run that is being deleted."""
        self._closed = True
        async with self._news:
            self._news.notify_all()

    async def _append(self, events: Sequence[tuple[Event, int]]) -> None:
        async with self._appending:
            run, new = await self._folded(), list[Entry]()
            for event, offset in events:
                if isinstance(event, StateChange) and not may_follow(run.state, event.state):
                    continue
                # Told of before a crash, and found again after it.
                if isinstance(event, Checkpoint) and any(event.step == old.step for old in run.checkpoints):
                    continue
                last = new[-1] if new else self.last
                new.extend(numbered(last, time.time(), [(event, max(offset, last.worker_offset))]))
                run = advance(run, new[-1])
            if new:
                await asyncio.to_thread(self._journal.append, new)
                self._run = run
        async with self._news:
            self._news.notify_all()

    async def _wait_for_entry_after(self, seq: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self._closed or self.last.seq > seq)
        if self._closed:
            raise NotFound(self.record.run)

    async def _folded(self) -> Run:
        if self._run is None:
            entries, _ = await asyncio.to_thread(self._journal.read)
            self._run = fold(self.record, entries)
        return self._run

    def _seq(self, cursor: str) -> int:
        if not cursor:
            return 0
        seq: int = decode_token(cursor, {"seq": int}, self.record.run)["seq"]
        if not 0 <= seq <= self.last.seq:
            raise InvalidCursor(cursor)
        return seq


def _ends(entry: Entry) -> bool:
    return isinstance(entry.event, StateChange) and entry.event.state in FINAL
