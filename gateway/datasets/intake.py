"""From a file to a data set: checked, stored, written down; or nothing of it is kept."""

import asyncio
from datetime import timedelta
from pathlib import Path

from gateway.datasets.checking import Checker
from gateway.datasets.dataset import Dataset, Upload
from gateway.jobs.job import now
from gateway.ledger import blobs
from gateway.ledger.datasets import get_dataset, insert_dataset
from gateway.ledger.engine import Ledger, Moved, Transaction
from gateway.ledger.uploads import forget_upload
from gateway.settings import GatewaySettings
from services.common.errors import AlreadyExists
from services.common.specs import DatasetSummary
from services.common.store import BlobStore


class Intake:
    """Takes files in."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, store: BlobStore) -> None:
        self._ledger = ledger
        self._store = store
        self._checker = Checker(settings)
        self._delay = timedelta(seconds=settings.sweep_delay_s)
        self.spool = settings.state_dir / "spool"
        """Directory of files on their way; what lies there after a crash is worth nothing."""

    async def take(self, path: Path, sha256: str, upload: Upload) -> Dataset:
        """Make the file at `path`, whose digest is known, the data set that `upload` was to become.

        Raises:
            InvalidDataset: it is not fit to train on.
            AlreadyExists: another upload became that data set meanwhile.
        """
        found = await self._checker.check(path, upload.file_name, upload.format)
        digest = f"sha256:{sha256}"
        scope = blobs.upload_scope(upload.id)
        await blobs.claim(self._ledger.write, scope, f"{scope}/whole", [digest])
        await asyncio.to_thread(self._store.put_file, path)
        summary = DatasetSummary(
            name=upload.dataset_name,
            digest=digest,
            size_bytes=upload.size_bytes,
            format=found.format,
            example_count=found.example_count,
            labels=found.labels,
            max_pixels=found.max_pixels,
            unpacked_bytes=found.unpacked_bytes,
            row_shape=found.row_shape,
            text=found.text,
        )
        dataset = Dataset(
            project=upload.project,
            id=upload.dataset,
            summary=summary,
            file_name=upload.file_name,
            warnings=found.warnings,
            caller=upload.caller,
            upload=upload.id,
            create_time=now(),
        )
        return await self._write_down(dataset)

    async def discard(self, upload: Upload) -> None:
        """Forget an upload whose bytes are worth nothing."""
        await self._ledger.write(lambda tx: forget_upload(tx, upload.id, now() + self._delay))

    async def _write_down(self, dataset: Dataset) -> Dataset:
        async def work(tx: Transaction) -> Dataset:
            first = await get_dataset(tx, dataset.project, dataset.id)
            if first is not None and first.upload == dataset.upload:
                return first
            if first is not None:
                raise AlreadyExists(dataset.name)
            await insert_dataset(tx, dataset)
            scope = blobs.dataset_scope(dataset.project, dataset.id)
            if not await blobs.need(tx, scope, scope, [dataset.summary.digest]):
                raise Moved(dataset.name)
            await forget_upload(tx, dataset.upload, now() + self._delay)
            return dataset

        return await self._ledger.decide(work)
