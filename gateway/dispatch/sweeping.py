"""The duty of sweeping: blobs that nobody needs, uploads left lying, artifacts whose time is over."""

import asyncio
from datetime import datetime, timedelta

from gateway.dispatch.reign import Reign
from gateway.jobs.job import now
from gateway.jobs.jobs import artifact_owner
from gateway.ledger import blobs
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import change, expired, live_user_of
from gateway.ledger.uploads import expired_uploads, forget_upload
from gateway.settings import GatewaySettings
from services.common.store import BlobStore

_BATCH = 500
_LONGEST_PAUSE_S = 60.0


class Sweeper:
    """Clears the store of what the ledger let go."""

    def __init__(self, settings: GatewaySettings, store: BlobStore) -> None:
        self._delay = timedelta(seconds=settings.sweep_delay_s)
        self._pause_s = min(_LONGEST_PAUSE_S, max(settings.tick_s, settings.sweep_delay_s / 10))
        self._store = store

    async def __call__(self, reign: Reign) -> None:
        """Sweep now and then, until cancelled."""
        while True:
            await reign.write(self._drop_uploads)
            await reign.write(self._drop_artifacts)
            while await self._delete_blobs(reign):
                continue
            await asyncio.sleep(self._pause_s)

    async def _drop_uploads(self, tx: Transaction) -> None:
        for upload in await expired_uploads(tx, now(), _BATCH):
            await forget_upload(tx, upload.id, self._due())

    async def _drop_artifacts(self, tx: Transaction) -> None:
        for job in await expired(tx, now()):
            # A job that starts from it keeps it until that job is over.
            if await live_user_of(tx, base_job=job.id) is None:
                await blobs.let_go(tx, self._due(), owners=[artifact_owner(job.id)])
                await change(tx, job, artifact=None, artifact_digest="")

    async def _delete_blobs(self, reign: Reign) -> bool:
        """Delete some blobs that are due; return whether there may be more."""
        # Marked, deleted, forgotten: a crash in between leaves the mark, and the next pass goes on there.
        doomed = await reign.write(lambda tx: blobs.doom(tx, now(), _BATCH))
        for digest in doomed:
            await asyncio.to_thread(self._store.delete, digest)
        await reign.write(lambda tx: blobs.forget(tx, doomed))
        return bool(doomed)

    def _due(self) -> datetime:
        return now() + self._delay
