"""Checks an archive of images in a process of its own: `python -m gateway.datasets.check_zip FILE LIMITS`."""

from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from gateway.datasets.confined import answer, too_little_memory
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
        raise too_little_memory("the archive", limits) from None
    counts = Counter(item.label for item in items)
    return {
        "example_count": len(items),
        "labels": sorted(counts.items()),
        "max_pixels": images.max_pixels,
        "unpacked_bytes": sum(item.entry.file_size for item in items),
        "warnings": [*warnings, *images.warnings()],
    }


if __name__ == "__main__":
    answer(check)
