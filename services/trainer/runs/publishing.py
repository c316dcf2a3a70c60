"""Moves what a run makes into the store, and only then tells about it.

A checkpoint is told of once, however often the service dies between its rename and the journal: what the
journal does not name is put again, under the same digest.
"""

import asyncio
import errno
import logging
import shutil
from pathlib import Path

from services.common.context import spawn
from services.common.errors import ServiceError
from services.common.names import parse_run
from services.common.specs import Checkpoint, FileTree
from services.common.store import BlobStore
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.failing import RunFails, broken_promise, disk_full
from services.trainer.runs.records import Notice, NoticeLevel
from services.trainer.runs.workerevents import LocalCheckpoint, read_worker_events
from services.trainer.transfers import Transfers

log = logging.getLogger(__name__)


class Publisher:
    """Publishes the checkpoints and the artifact of one run."""

    def __init__(
        self,
        directory: RunDirectory,
        events: EventLog,
        store: BlobStore,
        transfers: Transfers,
        retry_s: float,
    ) -> None:
        self._directory = directory
        self._events = events
        self._store = store
        self._transfers = transfers
        self._retry_s = retry_s
        # By step, in the order found: a checkpoint found twice is put once.
        self._pending: dict[int, LocalCheckpoint] = {}
        self._work: asyncio.Task[None] | None = None

    async def recover(self) -> None:
        """Find the checkpoints that the worker told of, the journal has passed, and the store may lack."""
        offset = self._events.last.worker_offset
        lines = await asyncio.to_thread(lambda: list(read_worker_events(self._directory.events_file, 0)))
        for line in lines:
            if line.end <= offset and isinstance(line.event, LocalCheckpoint):
                self.found(line.event)

    def found(self, checkpoint: LocalCheckpoint) -> None:
        """Publish a checkpoint, after those found before it."""
        self._pending[checkpoint.step] = checkpoint
        if self._work is None or self._work.done():
            self._work = spawn(self._publish_pending(), f"publish {self._events.record.run}")

    async def found_all(self) -> None:
        """Publish also what a worker that is gone left without a word: it died between rename and event."""
        published = {checkpoint.step for checkpoint in (await self._events.run()).checkpoints}
        for step, path in (await asyncio.to_thread(self._directory.local_checkpoints)).items():
            if step not in published and step not in self._pending:
                manifest = await asyncio.to_thread(self._directory.read_json, path / "checkpoint.json")
                epoch = manifest.get("epoch", 0.0) if isinstance(manifest, dict) else 0.0
                self.found(LocalCheckpoint(step=step, epoch=epoch))

    async def finish(self, patience_s: float) -> None:
        """Wait until everything found is published; say what could not be in the time given."""
        if self._work is None:
            return
        await asyncio.wait([self._work], timeout=patience_s)
        if self._work.done():
            # A defect must not look like an end.
            self._work.result()
        else:
            await self.stop()
            steps = ", ".join(map(str, self._pending))
            await self._warn(f"the store did not take the checkpoints of the steps {steps} in time")

    async def stop(self) -> None:
        """Stop publishing; what is pending is found again by `recover`."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def artifact(self) -> FileTree:
        """Put the artifact into the store and return its tree, however long the store needs to come back.

        Raises:
            RunFails: there is none, or the store's disk is full.
        """
        path = self._directory.artifact
        try:
            tree = await self._put(path, "the artifact")
        except OSError as error:
            size_bytes = sum(file.stat().st_size for file in path.rglob("*"))
            raise RunFails(disk_full(self._store.url, size_bytes, 0)) from error
        if tree is None:
            raise RunFails(broken_promise("InvalidArtifact", "the artifact is missing, or holds links"))
        return tree

    async def _publish_pending(self) -> None:
        while self._pending:
            step = next(iter(self._pending))
            await self._publish(self._pending[step])
            del self._pending[step]

    async def _publish(self, local: LocalCheckpoint) -> None:
        # In the journal already: the service died between that and the next line of the worker's.
        run = await self._events.run()
        if any(local.step == checkpoint.step for checkpoint in run.checkpoints):
            return
        item = f"the checkpoint of step {local.step}"
        try:
            tree = await self._put(self._directory.checkpoints / f"step-{local.step:08d}", item)
        except OSError as error:
            await self._warn(f"{item} was not published: {error}")
            return
        if tree is None:
            await self._warn(f"{item} was not published: it is missing, or holds links")
            return
        checkpoint = Checkpoint(
            step=local.step,
            digest=tree.digest,
            size_bytes=tree.size_bytes,
            attempt=parse_run(run.name)[1],
            epoch=local.epoch,
            metrics=local.metrics,
        )
        await self._events.append(checkpoint)
        await asyncio.to_thread(self._prune, local.step)

    async def _put(self, path: Path, item: str) -> FileTree | None:
        """Store a tree, as often as the store needs to come back. Returns None where there is no tree.

        Raises OSError where the store is full.
        """
        told = False
        while await asyncio.to_thread(path.is_dir):
            try:
                return await self._transfers.run(lambda: self._store.put_tree(path))
            except ValueError as error:
                log.warning("not a tree", extra={"path": str(path), "error": str(error)})
                return None
            except (OSError, ServiceError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    raise
                # Once: a store may be away for hours.
                if not told:
                    await self._warn(f"{item} is not in the store yet: {error}")
                told = True
                await asyncio.sleep(self._retry_s)
        return None

    def _prune(self, published: int) -> None:
        """Remove local checkpoints that are in the store. The newest stays: the worker may read it again."""
        for step, path in self._directory.local_checkpoints().items():
            if step < published:
                shutil.rmtree(path, ignore_errors=True)

    async def _warn(self, message: str) -> None:
        await self._events.append(Notice(level=NoticeLevel.WARNING, message=message))
