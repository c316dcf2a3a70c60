"""Whether uploaded bytes are data that a job can train on, and what they hold."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.datasets.formats import BEGINNING_BYTES, decide
from gateway.datasets.limits import Limits
from gateway.settings import GatewaySettings
from services.common.errors import InvalidDataset
from services.common.specs import DatasetFormat, LabelCount, RowShape, TextStatistics

# What an interpreter needs to start; tokens and settings stay out.
_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
# Address space is what is limited: threads, and pools that reserve it ahead, would use it up unused.
_FRUGAL = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "ARROW_IO_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Findings:
    """What data holds: a DatasetSummary without the file's own facts, and what looks wrong in it."""

    format: DatasetFormat
    example_count: int
    unpacked_bytes: int
    warnings: tuple[str, ...]
    labels: tuple[LabelCount, ...] = ()
    max_pixels: int = 0
    row_shape: RowShape | None = None
    text: TextStatistics | None = None


class Checker:
    """Checks files in child processes, a few at a time."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._limits = Limits(
            max_items=settings.max_dataset_items,
            max_rows=settings.max_dataset_rows,
            max_unpacked_bytes=settings.max_unpacked_bytes,
            max_item_bytes=settings.max_item_bytes,
            max_ratio=settings.max_compression_ratio,
            max_pixels=settings.max_pixels,
            memory_bytes=settings.check_memory_bytes,
            timeout_s=settings.check_timeout_s,
        )
        self._turns = asyncio.Semaphore(2)

    async def check(self, path: Path, file_name: str, announced: DatasetFormat | None) -> Findings:
        """Return what a file holds.

        Raises:
            InvalidDataset: it breaks a rule; the error names the item, or line and column, and the limit.
            RuntimeError: it could not be checked.
        """
        beginning = await asyncio.to_thread(_read_beginning, path)
        kind = decide(beginning, file_name, announced)
        # Decoding takes a whole core: two at a time leave something for calls and runs.
        async with self._turns:
            answer = await self._ask_child(path, kind)
        if "broken" in answer:
            raise InvalidDataset(**answer["broken"])
        return _findings(kind, answer["found"])

    async def _ask_child(self, path: Path, kind: DatasetFormat) -> dict[str, Any]:
        images = kind == DatasetFormat.IMAGE_FOLDER_ZIP
        item = "the archive" if images else "the file"
        module = f"gateway.datasets.check_{'zip' if images else 'text'}"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(path), json.dumps(asdict(self._limits)), kind),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={**{name: os.environ[name] for name in _PASSED_ON if name in os.environ}, **_FRUGAL},
        )
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                output, errors = await process.communicate()
        except TimeoutError:
            limit = f"at most {self._limits.timeout_s:g} s to decode it"
            raise InvalidDataset(item, limit, "more") from None
        finally:
            await _end(process)
        if process.returncode is not None and process.returncode < 0:
            # A decoder crashed, or was killed for what it asked for: nothing can be trained on such bytes.
            actual = f"its check was killed by signal {-process.returncode}"
            raise InvalidDataset(item, f"{'images' if images else 'rows'} that can be decoded safely", actual)
        if process.returncode:
            # A defect of this installation, such as a library that is missing, is not the data's fault.
            last = errors.decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the check of a data set failed: {last}")
        answer: dict[str, Any] = json.loads(output)
        return answer


def _findings(kind: DatasetFormat, found: dict[str, Any]) -> Findings:
    text, shape = found.get("text"), found.get("row_shape")
    return Findings(
        format=kind,
        example_count=found["example_count"],
        unpacked_bytes=found["unpacked_bytes"],
        warnings=tuple(found["warnings"]),
        labels=tuple(LabelCount(label=label, count=count) for label, count in found.get("labels", ())),
        max_pixels=found.get("max_pixels", 0),
        row_shape=RowShape(shape) if shape else None,
        text=TextStatistics(**text) if text else None,
    )


def _read_beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BEGINNING_BYTES)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
