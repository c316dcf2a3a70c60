"""Files that are there whole or not at all, whenever the power fails.

A file is written beside its final name, flushed to the disk, renamed, and the rename flushed too. What a
crash leaves behind is a hidden `.….tmp`, which nobody reads.
"""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def open_atomic(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Yield a file that becomes `path` when the block ends, and vanishes when it raises."""
    temporary = temporary_beside(path)
    try:
        # The mode is given at creation: there is no moment in which others could open a secret.
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        # Missing once it was renamed.
        temporary.unlink(missing_ok=True)
    # Until then a crash of the machine could bring the old name back.
    fsync_directory(path.parent)


def write_bytes(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Make `data` the content of `path`."""
    with open_atomic(path, mode) as file:
        file.write(data)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Make `text` the content of `path`, in UTF-8."""
    write_bytes(path, text.encode(), mode)


def write_json(path: Path, value: Any, mode: int = 0o644) -> None:
    """Make `value` the content of `path`, as JSON with sorted keys."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1) + "\n", mode)


def publish_directory(source: Path, target: Path) -> None:
    """Rename the directory `source` to `target` on the same disk, with every file in it flushed first.

    Raises:
        OSError: `target` exists and holds something (ENOTEMPTY).
    """
    for directory, _, names in os.walk(source):
        for name in names:
            _fsync(Path(directory, name))
        fsync_directory(Path(directory))
    source.rename(target)
    fsync_directory(target.parent)


def temporary_beside(path: Path) -> Path:
    """Return a hidden name, unused so far, in the directory of `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def fsync_directory(path: Path) -> None:
    """Flush a directory's entries to the disk."""
    _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
