"""Whether uploaded bytes are data that a job can train on, and what they hold."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.datasets.limits import Limits
from gateway.settings import GatewaySettings
from services.common.errors import InvalidDataset, NotAvailable
from services.common.specs import DatasetFormat, LabelCount

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_SUFFIXES = {
    ".jsonl": DatasetFormat.JSONL,
    ".parquet": DatasetFormat.PARQUET,
    ".csv": DatasetFormat.CSV,
}
# What an interpreter needs to start; tokens and settings stay out.
_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Findings:
    """What data holds."""

    format: DatasetFormat
    example_count: int
    labels: tuple[LabelCount, ...]
    max_pixels: int
    unpacked_bytes: int
    warnings: tuple[str, ...]


def refuse_format(kind: DatasetFormat | None) -> None:
    """Raise NotAvailable for a format that no job can train on yet."""
    if kind not in (None, DatasetFormat.IMAGE_FOLDER_ZIP):
        detail = f"data sets of format {kind} come with the text recipes"
        raise NotAvailable(f"{detail}; this version takes {DatasetFormat.IMAGE_FOLDER_ZIP}")


def recognise(beginning: bytes, file_name: str) -> DatasetFormat | None:
    """Return what a file seems to be by its first bytes, else by its name."""
    if beginning.startswith(_ZIP):
        return DatasetFormat.IMAGE_FOLDER_ZIP
    if beginning.startswith(b"PAR1"):
        return DatasetFormat.PARQUET
    return _SUFFIXES.get(Path(file_name).suffix.lower())


class Checker:
    """Checks files in child processes, a few at a time."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._limits = Limits(
            max_items=settings.max_dataset_items,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_item_bytes=settings.max_item_bytes,
            max_ratio=settings.max_compression_ratio,
            max_pixels=settings.max_pixels,
            memory_bytes=settings.check_memory_bytes,
            timeout_s=settings.check_timeout_s,
        )
        self._turns = asyncio.Semaphore(2)

    async def check(self, path: Path, file_name: str, kind: DatasetFormat | None) -> Findings:
        """Return what a file holds.

        Raises:
            InvalidDataset: it breaks a rule; the error names the item and the limit.
            RuntimeError: it could not be checked.
            NotAvailable: its format is not taken yet.
        """
        beginning = await asyncio.to_thread(_read_beginning, path)
        found = kind or recognise(beginning, file_name)
        refuse_format(found)
        if found is None or not beginning.startswith(_ZIP):
            limit = "a zip file with one folder of images per label"
            raise InvalidDataset(file_name or "the file", limit, "a file that is no zip")
        # Decoding takes a whole core: two at a time leave something for calls and runs.
        async with self._turns:
            answer = await self._ask_child(path)
        if "broken" in answer:
            raise InvalidDataset(**answer["broken"])
        held = answer["found"]
        labels = tuple(LabelCount(label=label, count=count) for label, count in held.pop("labels"))
        return Findings(found, labels=labels, warnings=tuple(held.pop("warnings")), **held)

    async def _ask_child(self, path: Path) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "gateway.datasets.check_zip",
                str(path),
                json.dumps(asdict(self._limits)),
            ),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                output, errors = await process.communicate()
        except TimeoutError:
            limit = f"at most {self._limits.timeout_s:g} s to decode it"
            raise InvalidDataset("the archive", limit, "more") from None
        finally:
            await _end(process)
        if process.returncode is not None and process.returncode < 0:
            # A decoder crashed, or was killed for what it asked for: nothing can be trained on such bytes.
            actual = f"its check was killed by signal {-process.returncode}"
            raise InvalidDataset("the archive", "images that can be decoded safely", actual)
        if process.returncode:
            # A defect of this installation, such as a library that is missing, is not the data's fault.
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the check of a data set failed: {last}")
        answer: dict[str, Any] = json.loads(output)
        return answer


def _read_beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
