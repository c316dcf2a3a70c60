"""The public event log of a run: one JSON object a line, in one file, by one writer.

A line is durable before anybody sees it, so a reader never knows more than a restart finds. Each holds
`worker_offset`, the byte of `events.jsonl` up to which the worker's own events are in the journal: a
restarted service goes on there. The n-th line has the number n; a cursor is that number.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.common.specs import Checkpoint
from services.trainer.runs.records import Evaluation, Event, Notice, Preparation, Progress, StateChange

_KINDS: dict[str, type[Any]] = {
    "state_change": StateChange,
    "progress": Progress,
    "evaluation": Evaluation,
    "checkpoint": Checkpoint,
    "notice": Notice,
    "preparation": Preparation,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_ADAPTERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the journal."""

    seq: int
    """Its number, from 1."""
    time_s: float
    """When it happened, in seconds since 1970."""
    worker_offset: int
    """How far into the worker's own events the journal has come."""
    event: Event
    """What happened."""


def kind_of(event: Event) -> str:
    """Return what the contract's RunEvent calls the event."""
    return _NAMES[type(event)]


def encode(entry: Entry) -> bytes:
    """Return an entry as a line."""
    kind = kind_of(entry.event)
    event = _ADAPTERS[kind].dump_python(entry.event, mode="json", exclude_defaults=True)
    line = {"seq": entry.seq, "time": entry.time_s, "worker_offset": entry.worker_offset, kind: event}
    # Python's json writes and reads the NaN of a diverged loss; pydantic's would write null and refuse it.
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> Entry:
    """Return the entry of a line. Raises ValueError where it is none."""
    raw = json.loads(line)
    try:
        (kind,) = _KINDS.keys() & raw.keys()
        event = _ADAPTERS[kind].validate_python(raw[kind])
        return Entry(seq=raw["seq"], time_s=raw["time"], worker_offset=raw["worker_offset"], event=event)
    except (KeyError, AttributeError) as error:
        raise ValueError(f"no entry of a journal: {line[:200]!r}") from error


class Journal:
    """A run's journal, open for appending. Everything here blocks."""

    def __init__(self, path: Path) -> None:
        """Open an existing journal; a line that a crash tore is cut off, for nobody has seen it.

        Raises:
            OSError, ValueError: there is none, or its last line cannot be read.
        """
        self._path = path
        self._size_bytes, self.last = _whole_lines(path)
        if path.stat().st_size > self._size_bytes:
            os.truncate(path, self._size_bytes)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries, which go on where the last one ended.

        Raises:
            OSError: the disk is full, say; then nothing was added.
        """
        data = b"".join(map(encode, entries))
        handle = os.open(self._path, os.O_WRONLY)
        try:
            # At the end of what is known to be whole: an attempt that failed may have left a part.
            os.lseek(handle, self._size_bytes, os.SEEK_SET)
            _write_all(handle, data)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, self._size_bytes)
            raise
        finally:
            os.close(handle)
        self._size_bytes += len(data)
        self.last = entries[-1]

    def read(
        self, after: int = 0, limit: int | None = None, position: int | None = None
    ) -> tuple[list[Entry], int]:
        """Return at most `limit` entries numbered higher than `after`, and the file position after them.

        Whoever goes on from `position`, an earlier call's answer, need not have the lines counted again.
        """
        count = self.last.seq - after if limit is None else min(self.last.seq - after, limit)
        with self._path.open("rb") as lines:
            if position is None:
                position = sum(len(line) for line in islice(lines, after))
            lines.seek(position)
            found = list(islice(lines, max(0, count)))
        return [decode(line) for line in found], position + sum(map(len, found))


def first_line(time_s: float, event: Event) -> bytes:
    """Return what a new journal begins with."""
    return encode(Entry(seq=1, time_s=time_s, worker_offset=0, event=event))


def numbered(last: Entry, time_s: float, events: Iterable[tuple[Event, int]]) -> Iterator[Entry]:
    """Yield entries that go on after `last`, from events and the worker's offset after each."""
    for number, (event, offset) in enumerate(events, last.seq + 1):
        yield Entry(seq=number, time_s=time_s, worker_offset=offset, event=event)


def _whole_lines(path: Path) -> tuple[int, Entry]:
    """Return the length of the whole lines, and the last of them."""
    block = 1 << 16
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while True:
            start = max(0, size - block)
            file.seek(start)
            lines = file.read().split(b"\n")[:-1]
            # With two line ends in the block, the line between them is whole.
            if len(lines) >= 2 or start == 0:
                break
            block *= 2
    if not lines:
        raise ValueError(f"{path} has no whole line")
    end = start + sum(len(line) + 1 for line in lines)
    return end, decode(lines[-1])


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
