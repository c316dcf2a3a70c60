"""Downloading a model from the hub, at the commit that was resolved, with progress."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from services.common.specs import WeightFile
from services.trainer.hubcache import counting_bar, free_bytes, is_cached, missing_bytes
from services.trainer.runs.records import StartPhase
from services.trainer.work.errors import FetchFailed
from services.trainer.work.events import EventWriter

_TELL_EVERY_S = 1.0


def fetch_from_hub(
    repository: str,
    revision: str,
    files: Sequence[WeightFile],
    optional_files: Sequence[str],
    events: EventWriter | None,
) -> Path:
    """Bring files of a model into the hub's cache and return the directory that they stand in.

    The token is in the environment, where the libraries look for it. Without `events` nothing is told.

    Raises:
        FetchFailed: the hub does not give one of them, or the disk has no room for those that are missing.
    """
    _refuse_full_disk(repository, revision, files)
    meter = _Meter(events, sum(file.size_bytes for file in files))
    for name in optional_files:
        with contextlib.suppress(EntryNotFoundError):
            _download(repository, name, revision, meter)
    folder: Path | None = None
    for file in files:
        if is_cached(repository, file.path, revision):
            # Nothing moves a bar for it.
            meter.add(file.size_bytes)
        try:
            path = _download(repository, file.path, revision, meter)
        except EntryNotFoundError as error:
            raise FetchFailed(f"{repository}/{file.path}", "the repository has no such file") from error
        # A file's name may have folders in it; the repository's own is what is wanted.
        folder = path.parents[len(Path(file.path).parts) - 1]
    meter.tell()
    if folder is None:
        raise FetchFailed(repository, "the repository has none of the files that are needed")
    return folder


def _refuse_full_disk(repository: str, revision: str, files: Sequence[WeightFile]) -> None:
    """Pass files that the disk has room for: a download that cannot end well does not begin."""
    needed = missing_bytes(repository, revision, ((file.path, file.size_bytes) for file in files))
    free = free_bytes()
    if needed > free:
        detail = (
            f"{needed:,} bytes are missing, and the disk of the node's cache has {free:,} free: "
            "delete models (`weighbridge models delete`) or finished jobs, or choose another node"
        )
        raise FetchFailed(repository, detail)


def _download(repository: str, name: str, revision: str, meter: "_Meter") -> Path:
    try:
        return Path(hf_hub_download(repository, name, revision=revision, tqdm_class=meter.bar()))
    except EntryNotFoundError:
        raise
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise FetchFailed(f"{repository}/{name}", str(error).splitlines()[0] if str(error) else "") from error


class _Meter:
    """Turns what the hub's client says to its progress bars into events."""

    def __init__(self, events: EventWriter | None, total_bytes: int) -> None:
        self._events = events
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._told_at_s = 0.0

    def bar(self) -> type[Any]:
        """Return a class of bars that draw nothing and count here."""
        return counting_bar(self.add)

    def add(self, count_bytes: int) -> None:
        """Count bytes, and tell now and then."""
        self._done_bytes += count_bytes
        if time.monotonic() - self._told_at_s >= _TELL_EVERY_S:
            self.tell()

    def tell(self) -> None:
        """Tell how far it is."""
        self._told_at_s = time.monotonic()
        done_bytes = min(self._done_bytes, self._total_bytes)
        if self._events is not None:
            self._events.phase(StartPhase.FETCHING_WEIGHTS, done_bytes, self._total_bytes)
