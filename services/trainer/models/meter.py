"""How far a download of several files is, told now and then."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.trainer.models.records import PullProgress

Tell = Callable[[PullProgress], None]

_TELL_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of a repository at a commit."""

    name: str
    size_bytes: int
    blob: str
    """What the cache calls its bytes: their SHA-256 for large ones, else git's own hash."""
    sha256: str


class Meter:
    """Tells how far a download is, now and then."""

    def __init__(self, tell: Tell, commit: str, total_bytes: int) -> None:
        self._tell = tell
        self._progress = PullProgress(revision=commit, total_bytes=total_bytes)
        self._before_bytes = 0
        self._file_bytes = 0
        self._told_at_s = 0.0

    def of(self, file: HubFile) -> "Meter":
        """Begin a file; the block that this enters ends it."""
        self._progress = replace(self._progress, file=file.name)
        self._file_bytes = file.size_bytes
        return self

    def __enter__(self) -> None:
        self._say()

    def __exit__(self, *error: object) -> None:
        # Whatever was counted of it: a file that was here already moved no bar.
        self._before_bytes += self._file_bytes
        self._progress = replace(self._progress, done_bytes=self._before_bytes)
        if error[0] is None:
            self._say()

    def add(self, count_bytes: int) -> None:
        """Count bytes of the file."""
        done = min(self._progress.done_bytes + count_bytes, self._before_bytes + self._file_bytes)
        self._progress = replace(self._progress, done_bytes=done)
        if time.monotonic() - self._told_at_s >= _TELL_EVERY_S:
            self._say()

    def _say(self) -> None:
        self._told_at_s = time.monotonic()
        self._tell(self._progress)
