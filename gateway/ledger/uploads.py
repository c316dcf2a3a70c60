"""Uploads in the ledger, and where their parts lie in the store."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from gateway.datasets.dataset import Upload
from gateway.ledger import blobs
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import upload_parts, uploads
from services.common.specs import DatasetFormat


@dataclass(frozen=True)
class Part:
    """Bytes of an upload, from `start` on."""

    start: int
    digest: str


async def insert_upload(tx: Transaction, upload: Upload) -> None:
    """Begin an upload."""
    await tx.execute(insert(uploads), vars(upload))


async def get_upload(tx: Transaction, upload_id: str) -> Upload | None:
    """Return an upload."""
    row = (await tx.execute(select(uploads).where(uploads.c.id == upload_id))).first()
    return None if row is None else _upload(row)


async def count_uploads(tx: Transaction, caller: str) -> int:
    """Return how many uploads a caller has open."""
    query = select(func.count()).select_from(uploads).where(uploads.c.caller == caller)
    return int((await tx.execute(query)).scalar_one())


async def add_part(
    tx: Transaction, upload_id: str, start: int, size_bytes: int, digest: str, expire_time: datetime
) -> bool:
    """Append a part. Returns False where the upload is gone or does not end at `start`."""
    here = (uploads.c.id == upload_id, uploads.c.committed_size == start)
    changes = {"committed_size": start + size_bytes, "expire_time": expire_time}
    if (await tx.execute(update(uploads).where(*here).values(changes))).rowcount == 0:
        return False
    await tx.execute(insert(upload_parts), {"upload": upload_id, "start": start, "digest": digest})
    return True


async def parts_of(tx: Transaction, upload_id: str) -> list[Part]:
    """Return an upload's parts in order."""
    query = select(upload_parts).where(upload_parts.c.upload == upload_id).order_by(upload_parts.c.start)
    return [Part(row.start, row.digest) for row in await tx.execute(query)]


async def forget_upload(tx: Transaction, upload_id: str, due: datetime) -> None:
    """Forget an upload; at `due` its parts are deleted."""
    await blobs.let_go(tx, due, scope=blobs.upload_scope(upload_id))
    await tx.execute(delete(uploads).where(uploads.c.id == upload_id))


async def expired_uploads(tx: Transaction, moment: datetime, limit: int) -> list[Upload]:
    """Return uploads that nothing arrived for in time."""
    query = select(uploads).where(uploads.c.expire_time <= moment).limit(limit)
    return [_upload(row) for row in await tx.execute(query)]


def _upload(row: Row[Any]) -> Upload:
    kind = None if row.format is None else DatasetFormat(row.format)
    return Upload(**{**row._mapping, "format": kind})
