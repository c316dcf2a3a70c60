"""Files that one process at a time works on: a lock that ends with its holder, however that ends."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


def lock(file: BinaryIO) -> bool:
    """Lock an open file without waiting; say whether that succeeded. Closing the file unlocks it."""
    if sys.platform == "win32":
        # Nothing is resumed across processes there: each works on its own file.
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def claimed(path: Path, mode: int = 0o666) -> Iterator[BinaryIO | None]:
    """Yield `path`, made if missing and opened to read and write, or None where another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=mode)
    with path.open("r+b") as file:
        # Whoever held it before may have renamed or removed it since it was opened here.
        yield file if lock(file) and _still_named(file, path) else None


def _still_named(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
