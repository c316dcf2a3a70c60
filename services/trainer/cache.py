"""The node's cache of the store: the data, models and checkpoints that runs on this node read.

An entry is a file or a directory named by the digest of what it holds. It was checked when it was fetched,
appeared whole, and is only ever read. The entries that nobody uses now go first when room is needed, the
one used longest ago before the others.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

from services.common.store import BlobStore
from services.trainer.transfers import Transfers


class DiskFull(OSError):
    """There is no room on the disk of `path` for `needed_bytes`."""

    def __init__(self, path: Path, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.path = path
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class NodeCache:
    """Blobs and trees of the store, on this node's disk. One process uses a cache at a time."""

    def __init__(self, path: Path, store: BlobStore, transfers: Transfers, limit_bytes: int) -> None:
        self.path = path
        self._store = store
        self._transfers = transfers
        self._limit_bytes = limit_bytes
        self._blobs, self._trees = path / "blobs", path / "trees"
        self._pins: Counter[str] = Counter()
        self._fetching: dict[Path, asyncio.Lock] = {}
        self._making_room = threading.Lock()
        for directory in (self._blobs, self._trees):
            directory.mkdir(parents=True, exist_ok=True)
            for leftover in directory.glob(".*"):
                _remove(leftover)

    @contextlib.asynccontextmanager
    async def pinned(self, digests: Iterable[str]) -> AsyncIterator[None]:
        """Keep the entries of these digests, whether they are here or come later, inside the block."""
        names = [_name(digest) for digest in digests]
        self._pins.update(names)
        try:
            yield
        finally:
            self._pins.subtract(names)

    async def blob(self, digest: str) -> Path:
        """Return a file with the blob's bytes.

        Raises:
            DiskFull: there is no room for it.
            NotFound, DigestMismatch: the store does not have it, or not whole.
            OSError: the store cannot be read.
        """
        path = self._blobs / _name(digest)

        def fetch() -> None:
            self._make_room(self._store.size(digest))
            self._store.fetch(digest, path)

        return await self._entry(path, fetch)

    async def tree(self, digest: str) -> Path:
        """Return a directory with the tree's files. Raises as `blob` does."""
        path = self._trees / _name(digest)

        def fetch() -> None:
            self._make_room(self._store.get_tree(digest).size_bytes)
            try:
                self._store.fetch_tree(digest, path)
            except OSError:
                # A fetch that nobody waited for any more was quicker.
                if not path.exists():
                    raise

        return await self._entry(path, fetch)

    async def _entry(self, path: Path, fetch: Callable[[], None]) -> Path:
        # Two runs of the same data fetch it once.
        lock = self._fetching.setdefault(path, asyncio.Lock())
        async with self.pinned([path.name]), lock:
            if not await asyncio.to_thread(self._use, path):
                await self._transfers.run(fetch)
        return path

    def _use(self, path: Path) -> bool:
        # Not while room is being made: this entry may have been chosen before it was pinned.
        with self._making_room:
            if not path.exists():
                return False
            os.utime(path)
            return True

    def _make_room(self, needed_bytes: int) -> None:
        with self._making_room:
            self._evict(needed_bytes)

    def _evict(self, needed_bytes: int) -> None:
        """Remove what nobody uses until the cache is below its limit and the disk has room."""
        entries = sorted(self._entries(), key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: _size_bytes(entry) for entry in entries}
        held_bytes = sum(sizes.values())
        for entry in entries:
            over = held_bytes + needed_bytes > self._limit_bytes
            if not over and needed_bytes <= self._free_bytes():
                break
            # Looked up at the last moment: whoever pins it from here on waits for `_use`.
            if not self._pins[entry.name]:
                _remove(entry)
                held_bytes -= sizes[entry]
        if needed_bytes > self._free_bytes():
            raise DiskFull(self.path, needed_bytes, self._free_bytes())

    def _entries(self) -> Iterator[Path]:
        for directory in (self._blobs, self._trees):
            yield from (path for path in directory.iterdir() if not path.name.startswith("."))

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free


def _name(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _size_bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _remove(path: Path) -> None:
    # Renamed first: an entry is never there in part.
    doomed = path.with_name(f".{path.name}.removed")
    path.replace(doomed)
    if doomed.is_dir():
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        doomed.unlink(missing_ok=True)
