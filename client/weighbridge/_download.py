"""Downloading an artifact: resumed where it broke off, verified, and there whole or not at all."""

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from weighbridge._claims import claimed
from weighbridge._link import Link
from weighbridge._patience import Patience
from weighbridge.common.v1.artifacts_pb2 import FileEntry
from weighbridge.exceptions import CorruptDownload, Unavailable, UnsafePath
from weighbridge.gateway.v1.service_pb2 import DownloadArtifactRequest

PATIENCE_S = 120.0
_BLOCK_BYTES = 1 << 20
Progress = Callable[[int, int], None]
"""Is told bytes done and bytes in all."""


def download(
    link: Link, job: str, files: Mapping[str, FileEntry], directory: Path, progress: Progress
) -> None:
    """Fetch files of a job's artifact into `directory`, each to its path there; what is there is kept.

    Raises:
        UnsafePath: a file would lie outside of `directory`; nothing was written.
        CorruptDownload: bytes do not have the digest that was stated; that file was not kept.
    """
    # All before the first byte is written: an artifact with one bad path is not half downloaded.
    targets = [(entry, safe_target(directory, path)) for path, entry in files.items()]
    total, done = sum(entry.size_bytes for entry in files.values()), 0
    for entry, target in targets:
        if not _has_digest(target, entry):
            _Fetch(link, job, entry, partial(_add, progress, done, total)).into(target)
        done += entry.size_bytes
        progress(done, total)


def _add(progress: Progress, before: int, total: int, here: int) -> None:
    progress(before + here, total)


def safe_target(directory: Path, path: str) -> Path:
    """Return where a file of an artifact goes. Raises UnsafePath where that is not below `directory`."""
    parts = PurePosixPath(path).parts
    # What is a harmless name here may be a drive or a folder on the machine that the directory moves to.
    windows = PureWindowsPath(path)
    if not parts or "/".join(parts) != path or ".." in parts or "\0" in path or "\\" in path:
        raise UnsafePath(path)
    if path.startswith("/") or windows.drive or windows.root:
        raise UnsafePath(path)
    target = directory.joinpath(*parts)
    # A link that lies in the directory may lead elsewhere.
    if not target.parent.resolve().is_relative_to(directory.resolve()):
        raise UnsafePath(path)
    return target


def _has_digest(target: Path, entry: FileEntry) -> bool:
    if not target.is_file() or target.stat().st_size != entry.size_bytes:
        return False
    with target.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == entry.digest


class _Fetch:
    """One file's download."""

    def __init__(self, link: Link, job: str, entry: FileEntry, progress: Callable[[int], None]) -> None:
        self._link = link
        self._job = job
        self._entry = entry
        self._progress = progress

    def into(self, target: Path) -> None:
        """Write the file beside its name, verify it, and rename it."""
        # The digest in the name keeps parts of another version of the file apart.
        part = target.with_name(f".{target.name}.{self._entry.digest[-12:]}.part")
        with claimed(part) as file:
            if file is not None:
                self._complete(file, part, target)
                return
        # Another process fetches the same file: this one does not wait for it and leaves no part behind.
        part = part.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with part.open("x+b") as file:
                self._complete(file, part, target)
        finally:
            part.unlink(missing_ok=True)

    def _complete(self, file: BinaryIO, part: Path, target: Path) -> None:
        resumed = os.fstat(file.fileno()).st_size > 0
        actual = self._fetch(file)
        if actual != self._entry.digest and resumed:
            # What an earlier try left may be what is wrong.
            file.seek(0)
            file.truncate()
            actual = self._fetch(file)
        if actual != self._entry.digest:
            part.unlink()
            raise CorruptDownload(self._entry.path, self._entry.digest, actual)
        file.flush()
        os.fsync(file.fileno())
        part.replace(target)

    def _fetch(self, file: BinaryIO) -> str:
        """Append what is missing and return the digest of the whole."""
        # A hash cannot be continued across processes: what is there already is read once more.
        digest, done = hashlib.sha256(), 0
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            done += len(block)
        patience = Patience(PATIENCE_S)
        while done < self._entry.size_bytes:
            self._progress(done)
            try:
                for data in self._link.stream(self._link.training.DownloadArtifact, self._request(done)):
                    file.write(data.data)
                    digest.update(data.data)
                    done += len(data.data)
                    self._progress(min(done, self._entry.size_bytes))
                    patience.succeeded()
                    # A digest cannot fill the disk before it is compared; a stream without end can.
                    if done > self._entry.size_bytes:
                        break
                else:
                    if done < self._entry.size_bytes:
                        raise Unavailable("UNAVAILABLE", f"the download of {self._entry.path} broke off")
            except Unavailable as error:
                patience.failed(error)
        return f"sha256:{digest.hexdigest()}"

    def _request(self, offset: int) -> DownloadArtifactRequest:
        return DownloadArtifactRequest(name=self._job, path=self._entry.path, offset=offset)
