"""Data sets from elsewhere: only from where the settings allow."""

import asyncio
import hashlib
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import fsspec

from gateway.datasets.dataset import Dataset, Upload
from gateway.datasets.finishing import spooled
from gateway.datasets.intake import Intake
from gateway.jobs.job import now
from gateway.ledger.datasets import get_dataset
from gateway.ledger.engine import Ledger
from gateway.scope import caller_name, enter
from gateway.settings import GatewaySettings
from services.common.context import spawn
from services.common.errors import AlreadyExists, InvalidRequest, ServiceError, TooLarge
from services.common.names import dataset_name, new_id
from services.common.specs import DatasetFormat
from services.common.store import CHUNK_BYTES


class Importer:
    """Fetches data sets."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, intake: Intake) -> None:
        self._settings = settings
        self._ledger = ledger
        self._intake = intake

    async def fetch(self, project: str, dataset_id: str, uri: str, kind: DatasetFormat | None) -> Dataset:
        """Make what lies at a URI a data set.

        Raises:
            InvalidRequest: the settings do not allow the URI, or nothing lies there.
            AlreadyExists: there is a data set of that name.
            TooLarge, InvalidDataset: it is not fit to train on.
        """
        enter(project)
        check_uri(uri, self._settings.import_prefixes)
        if await self._ledger.read(lambda tx: get_dataset(tx, project, dataset_id)) is not None:
            raise AlreadyExists(dataset_name(project, dataset_id))
        work = self._fetch(project, dataset_id, uri, kind, caller_name())
        return await asyncio.shield(spawn(work, f"import {uri}"))

    async def _fetch(
        self, project: str, dataset_id: str, uri: str, kind: DatasetFormat | None, caller: str
    ) -> Dataset:
        with spooled(self._intake.spool) as file:
            limit = self._settings.max_upload_bytes
            try:
                sha256, size_bytes = await asyncio.to_thread(_copy, uri, file, limit)
            except (OSError, ImportError, ValueError) as error:
                raise InvalidRequest({"uri": f"{uri} cannot be read: {error}"}) from error
            upload = Upload(
                id=new_id(),
                project=project,
                dataset=dataset_id,
                size_bytes=size_bytes,
                committed_size=size_bytes,
                format=kind,
                file_name=PurePosixPath(urlsplit(uri).path).name,
                caller=caller,
                expire_time=now() + timedelta(seconds=self._settings.upload_ttl_s),
            )
            try:
                return await self._intake.take(Path(file.name), sha256, upload)
            except ServiceError:
                await self._intake.discard(upload)
                raise


def check_uri(uri: str, prefixes: tuple[str, ...]) -> None:
    """Pass a URI that lies below one of the prefixes. Raises InvalidRequest."""
    allowed = ", ".join(prefixes) or "none: WEIGHBRIDGE_IMPORT_PREFIXES is empty"
    below = any(uri.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)
    # fsspec reads `::` as a chain of file systems: what follows it lies anywhere.
    plain = "::" not in uri and ".." not in PurePosixPath(unquote(urlsplit(uri).path)).parts
    if not below or not plain or not _stays_below(uri, prefixes):
        raise InvalidRequest({"uri": f"{uri} is not among the allowed places ({allowed})"})


def _stays_below(uri: str, prefixes: tuple[str, ...]) -> bool:
    """Say whether a local file lies below a prefix also when links are followed."""
    if urlsplit(uri).scheme != "file":
        return True
    path = Path(unquote(urlsplit(uri).path)).resolve()
    roots = [Path(unquote(urlsplit(prefix).path)).resolve() for prefix in prefixes]
    return any(path.is_relative_to(root) for root in roots)


def _copy(uri: str, target: BinaryIO, limit_bytes: int) -> tuple[str, int]:
    checksum, size_bytes = hashlib.sha256(), 0
    with fsspec.open(uri, "rb") as source:
        while data := source.read(CHUNK_BYTES):
            size_bytes += len(data)
            if size_bytes > limit_bytes:
                raise TooLarge(limit_bytes, size_bytes)
            checksum.update(data)
            target.write(data)
    target.flush()
    return checksum.hexdigest(), size_bytes
