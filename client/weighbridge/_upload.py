"""A resumable upload: created, sent in segments from whatever is committed, finished with a digest.

The session's name is kept below the client's home while it lasts, so that a second try, in another process,
goes on where the first broke off.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from weighbridge import config
from weighbridge._claims import claimed
from weighbridge._link import Link
from weighbridge._patience import Patience
from weighbridge.common.v1.resolved_spec_pb2 import DatasetFormat
from weighbridge.exceptions import (
    AlreadyExists,
    CallError,
    DeadlineExceeded,
    DigestMismatch,
    InvalidDataset,
    NotFound,
    Unavailable,
    WrongOffset,
)
from weighbridge.gateway.v1.resources_pb2 import Dataset, Upload
from weighbridge.gateway.v1.service_pb2 import (
    AbortUploadRequest,
    CreateUploadRequest,
    FinishUploadRequest,
    GetDatasetRequest,
    GetUploadRequest,
    WriteUploadRequest,
)

CHUNK_BYTES = 1 << 20
# One stream carries so much: a broken one loses no more, and each has a deadline.
SEGMENT_BYTES = 64 << 20
SEGMENT_TIMEOUT_S = 600.0
# Unpacking and looking at every image of a large data set takes a while.
FINISH_TIMEOUT_S = 1800.0
PATIENCE_S = 120.0

Progress = Callable[[int, int], None]
"""Is told bytes done and bytes in all."""


@dataclass(frozen=True)
class Source:
    """The file and what it is to become."""

    path: Path
    parent: str
    """`projects/{project}`."""
    dataset_id: str
    format: DatasetFormat.ValueType
    size_bytes: int
    sha256: str
    """64 hexadecimal digits."""

    @property
    def dataset(self) -> str:
        """The data set's resource name."""
        return f"{self.parent}/datasets/{self.dataset_id}"


def read_source(path: Path, parent: str, dataset_id: str, format: DatasetFormat.ValueType) -> Source:
    """Return the file with its size and digest. Raises OSError where it cannot be read."""
    # Before the first byte is sent: it vouches for the file, not for what was read of it on the way.
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return Source(path, parent, dataset_id, format, os.fstat(file.fileno()).st_size, digest)


def upload(link: Link, source: Source, progress: Progress) -> Dataset:
    """Make the file a data set; one that is there already with the same bytes is returned as it is.

    Raises:
        InvalidDataset: the data breaks a rule; nothing is kept.
        AlreadyExists: there is a data set of that name with other bytes.
        DigestMismatch: the file changed while it was uploaded.
        OSError: the file cannot be read.
    """
    with claimed(_memory_path(link.target, source), mode=0o600) as memory:
        try:
            session = _remembered(link, source, memory) or _created(link, source, memory)
            _Sender(link, source, progress).send(session)
            dataset = _finished(link, source, session)
        except AlreadyExists as error:
            dataset = _same_dataset(link, source, error)
        except (Unavailable, DeadlineExceeded):
            # The session stands: a later try goes on with it.
            raise
        except CallError:
            _forget(link, source, memory)
            raise
        _forget(link, source, memory)
        return dataset


def _memory_path(target: str, source: Source) -> Path:
    # By content and not by file name: a file that changed since is another upload, a copy of it is not.
    key = "\n".join((target, source.dataset, source.sha256))
    return config.home() / "uploads" / hashlib.sha256(key.encode()).hexdigest()


def _remembered(link: Link, source: Source, memory: BinaryIO | None) -> Upload | None:
    """Return the session that an earlier try left, if it still stands."""
    name = memory.read().decode(errors="replace") if memory is not None else ""
    if not name:
        return None
    try:
        found = link.call(link.training.GetUpload, GetUploadRequest(name=name))
    except NotFound:
        return None
    return found if (found.dataset, found.size_bytes) == (source.dataset, source.size_bytes) else None


def _created(link: Link, source: Source, memory: BinaryIO | None) -> Upload:
    request = CreateUploadRequest(
        parent=source.parent,
        dataset_id=source.dataset_id,
        size_bytes=source.size_bytes,
        format=source.format,
        file_name=source.path.name,
    )
    session = link.call(link.training.CreateUpload, request)
    if memory is not None:
        memory.seek(0)
        memory.truncate()
        memory.write(session.name.encode())
        memory.flush()
    return session


def _forget(link: Link, source: Source, memory: BinaryIO | None) -> None:
    if memory is not None:
        _memory_path(link.target, source).unlink(missing_ok=True)


def _finished(link: Link, source: Source, session: Upload) -> Dataset:
    """Return the data set. What the platform refuses for good is thrown away there."""
    patience = Patience(PATIENCE_S)
    request = FinishUploadRequest(name=session.name, sha256=source.sha256)
    while True:
        try:
            return link.call(link.training.FinishUpload, request, FINISH_TIMEOUT_S)
        except Unavailable as error:
            # Finishing twice is finishing once: a repeat answers with the same data set.
            patience.failed(error)
        except (InvalidDataset, DigestMismatch, AlreadyExists):
            with contextlib.suppress(CallError):
                link.call(link.training.AbortUpload, AbortUploadRequest(name=session.name))
            raise


def _same_dataset(link: Link, source: Source, error: AlreadyExists) -> Dataset:
    """Return the data set of that name if it holds these very bytes; else raise `error`."""
    found = link.call(link.training.GetDataset, GetDatasetRequest(name=source.dataset))
    if found.summary.digest != f"sha256:{source.sha256}":
        raise error
    return found


class _Sender:
    """Sends what is not committed yet, as often as it takes."""

    def __init__(self, link: Link, source: Source, progress: Progress) -> None:
        self._link = link
        self._source = source
        self._progress = progress
        self._read_error: OSError | None = None
        self._patience = Patience(PATIENCE_S)

    def send(self, session: Upload) -> None:
        """Return when all bytes are committed."""
        self._progress(session.committed_size, self._source.size_bytes)
        while session.committed_size < self._source.size_bytes:
            session = self._send_segment(session)
        self._progress(session.committed_size, self._source.size_bytes)

    def _send_segment(self, session: Upload) -> Upload:
        before = session.committed_size
        try:
            session = self._link.send(
                self._link.training.WriteUpload, self._chunks(session), SEGMENT_TIMEOUT_S, self._sent
            )
        except (Unavailable, DeadlineExceeded, WrongOffset) as error:
            # How much of what was sent is safe, only the platform knows.
            session = self._committed(session, error)
        if self._read_error is not None:
            raise self._read_error
        if session.committed_size > before:
            self._patience.succeeded()
        else:
            self._patience.failed(Unavailable("UNAVAILABLE", f"{session.name} takes no more bytes"))
        return session

    def _chunks(self, session: Upload) -> Iterator[WriteUploadRequest]:
        # gRPC calls this from a thread of its own, which a broken stream may outlive: it opens its own file.
        offset, end = session.committed_size, self._source.size_bytes
        end = min(end, offset + SEGMENT_BYTES)
        try:
            with self._source.path.open("rb") as file:
                file.seek(offset)
                while offset < end:
                    data = file.read(min(CHUNK_BYTES, end - offset))
                    if not data:
                        raise OSError(f"{self._source.path} became shorter while it was uploaded")
                    yield WriteUploadRequest(name=session.name, offset=offset, data=data)
                    offset += len(data)
        except OSError as error:
            # gRPC would log it and tell the caller of an unknown error.
            self._read_error = error

    def _sent(self, chunk: WriteUploadRequest) -> None:
        self._progress(chunk.offset + len(chunk.data), self._source.size_bytes)

    def _committed(self, session: Upload, error: CallError) -> Upload:
        """Return the session as the platform has it after a stream broke."""
        while True:
            self._patience.failed(error)
            try:
                return self._link.call(self._link.training.GetUpload, GetUploadRequest(name=session.name))
            except Unavailable as unavailable:
                error = unavailable
