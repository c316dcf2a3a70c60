"""Resumable uploads: parts in the store, listed in the ledger. Any replica goes on where another stopped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.datasets.dataset import Upload
from gateway.jobs.job import now
from gateway.ledger import blobs, uploads
from gateway.ledger.datasets import get_dataset
from gateway.ledger.engine import Ledger, Transaction
from gateway.scope import caller_name, enter, see
from gateway.settings import GatewaySettings
from services.common.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    TooLarge,
    WrongOffset,
)
from services.common.names import dataset_name, new_id, parse_upload
from services.common.specs import DatasetFormat
from services.common.store import BlobStore, digest_of

_RETRY_S = 60.0


@dataclass(frozen=True)
class NewUpload:
    """A request for an upload."""

    project: str
    dataset: str
    size_bytes: int
    format: DatasetFormat | None
    file_name: str


@dataclass(frozen=True)
class Chunk:
    """Some bytes of an upload."""

    name: str
    """The upload's; in the first chunk of a stream."""
    offset: int
    data: bytes


class Uploads:
    """The uploads that the caller of the call being served may see."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, store: BlobStore) -> None:
        self._settings = settings
        self._ledger = ledger
        self._store = store

    async def create(self, new: NewUpload) -> Upload:
        """Begin an upload.

        Raises:
            TooLarge: so much data is not taken.
            AlreadyExists: there is a data set of that name.
            QuotaExceeded: the caller has too many uploads open.
        """
        enter(new.project)
        if new.size_bytes > self._settings.max_upload_bytes:
            raise TooLarge(self._settings.max_upload_bytes, new.size_bytes)
        upload = Upload(
            id=new_id(), committed_size=0, caller=caller_name(), expire_time=self._expiry(), **vars(new)
        )

        async def work(tx: Transaction) -> Upload:
            if await get_dataset(tx, new.project, new.dataset) is not None:
                raise AlreadyExists(dataset_name(new.project, new.dataset))
            if await uploads.count_uploads(tx, upload.caller) >= self._settings.max_open_uploads:
                raise QuotaExceeded("open uploads", self._settings.max_open_uploads, _RETRY_S)
            await uploads.insert_upload(tx, upload)
            return upload

        return await self._ledger.write(work)

    async def get(self, name: str) -> Upload:
        """Return an upload. Raises NotFound."""
        project, upload_id = parse_upload(name)
        see(project, name)
        upload = await self._ledger.read(lambda tx: uploads.get_upload(tx, upload_id))
        if upload is None or upload.project != project:
            raise NotFound(name)
        return upload

    async def write(self, chunks: AsyncIterator[Chunk]) -> Upload:
        """Append chunks until the stream ends; each full part is safe at once, and the rest at the end.

        Raises:
            WrongOffset: a chunk does not begin where the one before ended, the first at the committed size.
            TooLarge: there is more than was announced.
        """
        upload, buffer = None, bytearray()
        async for chunk in chunks:
            upload = upload or await self._first(chunk)
            here = upload.committed_size + len(buffer)
            if chunk.offset != here:
                upload = await self._append(upload, buffer)
                raise WrongOffset(upload.name, chunk.offset, upload.committed_size)
            if here + len(chunk.data) > upload.size_bytes:
                raise TooLarge(upload.size_bytes, here + len(chunk.data))
            buffer += chunk.data
            # Parts of some size: a blob and a flush for each small chunk would be slow to write and to read.
            if len(buffer) >= self._settings.upload_part_bytes:
                upload, buffer = await self._append(upload, buffer), bytearray()
        if upload is None:
            raise InvalidRequest({"name": "the stream holds no chunk"})
        return await self._append(upload, buffer)

    async def abort(self, name: str) -> None:
        """Throw an upload away, if it is there."""
        try:
            upload = await self.get(name)
        except NotFound:
            return
        due = now() + timedelta(seconds=self._settings.sweep_delay_s)
        await self._ledger.write(lambda tx: uploads.forget_upload(tx, upload.id, due))

    async def _first(self, chunk: Chunk) -> Upload:
        if not chunk.name:
            raise InvalidRequest({"name": "the first chunk of a stream names the upload"})
        return await self.get(chunk.name)

    async def _append(self, upload: Upload, buffer: bytearray) -> Upload:
        """Make bytes safe. Raises WrongOffset where another stream was quicker."""
        if buffer:
            data, scope = bytes(buffer), blobs.upload_scope(upload.id)
            digest = await asyncio.to_thread(digest_of, data)
            # Two streams may bring the same bytes: each part has an owner of its own.
            await blobs.claim(self._ledger.write, scope, f"{scope}/{new_id()}", [digest])
            await asyncio.to_thread(self._store.put_bytes, data)
            start, size, expiry = upload.committed_size, len(buffer), self._expiry()
            appended = await self._ledger.write(
                lambda tx: uploads.add_part(tx, upload.id, start, size, digest, expiry)
            )
            latest = await self.get(upload.name)
            if not appended:
                raise WrongOffset(upload.name, start, latest.committed_size)
            return latest
        return upload

    def _expiry(self) -> datetime:
        return now() + timedelta(seconds=self._settings.upload_ttl_s)
