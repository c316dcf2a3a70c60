"""The file in which a node's reservations survive: a line for each event, on the disk before it counts.

The first line says whose journal it is. A crash may tear the last line; it was acknowledged to nobody and is
cut off. Any other damage means that the journal is lost: it is put aside, and the node asks the gateway what
lives on it.
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

from services.common.atomic import write_text
from services.hardware.admission.records import from_line, to_line
from services.hardware.admission.reservations import Event

log = logging.getLogger(__name__)

_VERSION = 1
_NAME = "reservations.jsonl"


class Journal:
    """The journal in `directory`, locked for this process. Its methods block: use a thread.

    Raises:
        RuntimeError: another process has this directory's journal.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME
        self._lock = _locked(directory / f"{_NAME}.lock")
        self._file: BinaryIO | None = None
        self.lines = 0
        """Events in the file."""

    @property
    def exists(self) -> bool:
        """Whether what the node promised is known: read, or written down by `replace`."""
        return self._file is not None

    def load(self) -> list[Event]:
        """Return every event. None, and no journal, where there is no file or only a damaged one."""
        try:
            events = self._read()
        except FileNotFoundError:
            return []
        except ValueError as error:
            aside = self._path.with_suffix(f".damaged-{os.getpid()}")
            self._path.rename(aside)
            log.error("journal put aside as lost", extra={"journal": str(aside), "error": str(error)})
            return []
        self._open(len(events))
        return events

    def append(self, events: Sequence[Event]) -> None:
        """Write events down. They count once this returns; when it raises OSError, none of them does."""
        assert self._file is not None, "nothing is promised before the journal is known"
        end = self._file.seek(0, os.SEEK_END)
        try:
            _write_whole(self._file, "".join(f"{to_line(event)}\n" for event in events).encode())
            os.fsync(self._file.fileno())
        except OSError:
            # Half a line would swallow the next one.
            self._file.truncate(end)
            raise
        self.lines += len(events)

    def replace(self, events: Iterable[Event]) -> None:
        """Make these events the whole journal, atomically."""
        lines = [json.dumps({"journal": _VERSION}), *map(to_line, events)]
        write_text(self._path, "\n".join(lines) + "\n", mode=0o600)
        self._open(len(lines) - 1)

    def close(self) -> None:
        """Let another process have the journal."""
        if self._file is not None:
            self._file.close()
        self._lock.close()

    def _open(self, lines: int) -> None:
        if self._file is not None:
            self._file.close()
        # Unbuffered: a line that failed to reach the disk must not stay behind and reach it later.
        self._file = self._path.open("ab", buffering=0)
        self.lines = lines

    def _read(self) -> list[Event]:
        data = self._path.read_bytes()
        whole, newline, torn = data.rpartition(b"\n")
        # Checked before anything is believed: a file of another kind must not pass for an empty journal.
        header, *lines = whole.decode().split("\n")
        if json.loads(header) != {"journal": _VERSION}:
            raise ValueError(f"the first line is {header[:80]!r}")
        events = [from_line(line) for line in lines]
        if torn:
            log.warning("torn last line cut off", extra={"journal": str(self._path), "size_bytes": len(torn)})
            os.truncate(self._path, len(whole) + len(newline))
        return events


def _write_whole(file: BinaryIO, data: bytes) -> None:
    if file.write(data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    # Held by the open file, so that the kernel lets go of it however this process ends.
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError(f"another hardware service keeps {path.parent}: stop it first") from None
    return file
