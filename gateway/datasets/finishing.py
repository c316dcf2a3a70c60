"""The end of an upload: its parts put together, checked, and made a data set."""

import asyncio
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gateway.datasets.dataset import Dataset, Upload
from gateway.datasets.intake import Intake
from gateway.ledger.datasets import dataset_of_upload
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.uploads import Part, get_upload, parts_of
from gateway.scope import see
from services.common.context import spawn
from services.common.errors import (
    AlreadyExists,
    DigestMismatch,
    InvalidDataset,
    NotFound,
    WrongState,
)
from services.common.names import parse_upload
from services.common.store import CHUNK_BYTES, BlobStore


class Finisher:
    """Finishes uploads; whoever asks again meanwhile waits for the same end."""

    def __init__(self, ledger: Ledger, store: BlobStore, intake: Intake) -> None:
        self._ledger = ledger
        self._store = store
        self._intake = intake
        self._under_way: dict[str, asyncio.Task[Dataset]] = {}

    async def finish(self, name: str, sha256: str) -> Dataset:
        """Make an upload a data set. A repeat returns what the first one made.

        Raises:
            NotFound: there is no such upload, or its data was refused before.
            WrongState: bytes are missing.
            DigestMismatch, InvalidDataset, AlreadyExists: it is refused, and nothing is kept.
        """
        project, upload_id = parse_upload(name)
        see(project, name)

        async def work(tx: Transaction) -> tuple[Dataset | None, Upload | None]:
            return await dataset_of_upload(tx, upload_id), await get_upload(tx, upload_id)

        dataset, upload = await self._ledger.read(work)
        if dataset is None:
            if upload is None or upload.project != project:
                raise NotFound(name)
            if upload.committed_size < upload.size_bytes:
                held = f"{upload.committed_size} of {upload.size_bytes} bytes long"
                raise WrongState(name, held, "an upload that is complete")
            dataset = await self._join(upload, sha256)
        if dataset.summary.digest != f"sha256:{sha256}":
            raise DigestMismatch(f"sha256:{sha256}", dataset.summary.digest)
        return dataset

    async def _join(self, upload: Upload, sha256: str) -> Dataset:
        if upload.id not in self._under_way:
            task = spawn(self._finish(upload, sha256), f"finish {upload.id}")
            self._under_way[upload.id] = task
            task.add_done_callback(lambda _: self._under_way.pop(upload.id))
        # A caller who leaves does not end it: the next one finds it done.
        return await asyncio.shield(self._under_way[upload.id])

    async def _finish(self, upload: Upload, sha256: str) -> Dataset:
        parts = await self._ledger.read(lambda tx: parts_of(tx, upload.id))
        with spooled(self._intake.spool) as file:
            actual = await asyncio.to_thread(_put_together, self._store, parts, file)
            try:
                if actual != sha256:
                    raise DigestMismatch(f"sha256:{sha256}", f"sha256:{actual}")
                return await self._intake.take(Path(file.name), sha256, upload)
            # Anything else is this service's trouble, not the data's: the upload stays.
            except (DigestMismatch, InvalidDataset, AlreadyExists):
                await self._intake.discard(upload)
                raise


@contextmanager
def spooled(directory: Path) -> Iterator[BinaryIO]:
    """Yield a file with a name that is gone after the block."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        yield file  # type: ignore[misc]


def _put_together(store: BlobStore, parts: list[Part], target: BinaryIO) -> str:
    checksum = hashlib.sha256()
    for part in parts:
        with store.open(part.digest) as source:
            while data := source.read(CHUNK_BYTES):
                checksum.update(data)
                target.write(data)
    target.flush()
    return checksum.hexdigest()
