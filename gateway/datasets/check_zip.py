"""Checks one archive in a process of its own: `python -m gateway.datasets.check_zip FILE LIMITS`.

The archive was sent by anybody, and decoders have bugs: this process has no credential, little memory, a
limit on its time, and may write no file. It answers with one JSON object on its output.
"""

import json
import os
import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from gateway.datasets.entries import check_entries
from gateway.datasets.images import check_images
from gateway.datasets.layout import label_items
from gateway.datasets.limits import Broken, Limits


def check(path: Path, limits: Limits) -> dict[str, Any]:
    """Return what an archive holds. Raises Broken."""
    try:
        with ZipFile(path) as archive:
            entries = check_entries(archive, limits)
            items, warnings = label_items(entries)
            images = check_images(archive, items, limits)
    except (BadZipFile, EOFError, NotImplementedError) as error:
        raise Broken("the archive", "a zip file that is whole", str(error)) from None
    except MemoryError:
        raise Broken("the archive", f"at most {limits.memory_bytes} bytes of memory", "more") from None
    counts = Counter(item.label for item in items)
    return {
        "example_count": len(items),
        "labels": sorted(counts.items()),
        "max_pixels": images.max_pixels,
        "unpacked_bytes": sum(item.entry.file_size for item in items),
        "warnings": [*warnings, *images.warnings()],
    }


def _confine(limits: Limits) -> None:
    seconds = int(limits.timeout_s) + 1
    for kind, value in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    # Calls being served go first.
    os.nice(10)


def main() -> None:
    """Check the archive that the arguments name."""
    path, limits = Path(sys.argv[1]), Limits(**json.loads(sys.argv[2]))
    _confine(limits)
    try:
        answer: dict[str, Any] = {"found": check(path, limits)}
    except Broken as broken:
        answer = {"broken": vars(broken)}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
