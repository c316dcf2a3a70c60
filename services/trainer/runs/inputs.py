"""Brings a run's inputs onto the node: the worker itself cannot reach the store."""

import asyncio
import errno
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.common import atomic
from services.common.errors import DigestMismatch, InvalidRequest, NotFound
from services.common.failures import Failure
from services.common.specs import Checkpoint, ResolvedSpec
from services.trainer.cache import DiskFull, NodeCache
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.failing import RunFails, bad_checkpoint, disk_full, fetch_failed
from services.trainer.runs.records import Preparation, StartPhase

log = logging.getLogger(__name__)

_TRIES = 5


def input_digests(spec: ResolvedSpec, start_from: Checkpoint | None) -> list[str]:
    """Return the digests of all that the run reads from the store."""
    digests = (spec.dataset.digest, spec.model.artifact_digest, start_from.digest if start_from else "")
    return [digest for digest in digests if digest]


class Inputs:
    """Fetches what a run reads into the node's cache."""

    def __init__(self, cache: NodeCache, model_root: Path, retry_s: float) -> None:
        self._cache = cache
        self._model_root = model_root
        self._retry_s = retry_s

    async def materialise(self, directory: RunDirectory, events: EventLog) -> None:
        """Write `inputs.json` once everything that it names is there.

        Raises:
            RunFails: an input cannot be had, or the disk is full.
        """
        spec, start_from = directory.spec(), events.record.start_from
        dataset = await self._data(spec, events)
        base = await self._tree(spec.model.artifact_digest, "the base model's artifact", events)
        start = await self._checkpoint(start_from)
        inputs = {
            "dataset_path": str(dataset),
            "base_model_dir": None if base is None else str(base),
            "start_from_dir": None if start is None else str(start),
            "model_root": str(self._model_root.absolute()),
        }
        await asyncio.to_thread(atomic.write_json, directory.inputs_file, inputs)

    async def _data(self, spec: ResolvedSpec, events: EventLog) -> Path:
        size_bytes = spec.dataset.size_bytes
        phase = StartPhase.FETCHING_DATA
        await events.append(Preparation(phase=phase, total_bytes=size_bytes))
        path = await self._fetched(spec.dataset.name, lambda: self._cache.blob(spec.dataset.digest))
        # The store tells nothing in between.
        await events.append(Preparation(phase=phase, done_bytes=size_bytes, total_bytes=size_bytes))
        return path

    async def _tree(self, digest: str, item: str, events: EventLog) -> Path | None:
        if not digest:
            return None
        await events.append(Preparation(phase=StartPhase.FETCHING_WEIGHTS))
        return await self._fetched(item, lambda: self._cache.tree(digest))

    async def _checkpoint(self, start_from: Checkpoint | None) -> Path | None:
        if start_from is None:
            return None
        try:
            return await self._retried(lambda: self._cache.tree(start_from.digest))
        # Broken for good, unlike a store that does not answer: another attempt would need another checkpoint.
        except (NotFound, DigestMismatch, InvalidRequest) as error:
            raise RunFails(bad_checkpoint(start_from.step, str(error))) from error
        except OSError as error:
            raise RunFails(fetch_failed(f"the checkpoint of step {start_from.step}", str(error))) from error

    async def _fetched(self, item: str, fetch: Callable[[], Awaitable[Path]]) -> Path:
        try:
            return await self._retried(fetch)
        except (NotFound, DigestMismatch, InvalidRequest, OSError) as error:
            raise RunFails(fetch_failed(item, str(error))) from error

    async def _retried(self, fetch: Callable[[], Awaitable[Path]]) -> Path:
        """Fetch, and try again a few times where the store does not answer. A full disk ends the run."""
        for _ in range(_TRIES - 1):
            try:
                return await fetch()
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise RunFails(self._disk_full(error)) from error
                log.warning("the store cannot be read; trying again", extra={"error": str(error)})
            await asyncio.sleep(self._retry_s)
        return await fetch()

    def _disk_full(self, error: OSError) -> Failure:
        if isinstance(error, DiskFull):
            return disk_full(str(error.path), error.needed_bytes, error.free_bytes)
        return disk_full(str(self._cache.path), 0, shutil.disk_usage(self._cache.path).free)
