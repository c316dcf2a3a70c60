"""The two locks by which a run's process is known, whoever started it and whether or not that one lives.

`claim` is taken by the one worker that runs; what stands in it is its process id. `alive` is held by that
worker and by every child that inherits it. A lock ends with its process, however that ends, so neither can
be forgotten.
"""

import contextlib
import fcntl
import os
from pathlib import Path

# What stands in a claim that the service has closed: no process has this id.
_CLOSED = 0


def is_held(path: Path) -> bool:
    """Say whether another process holds a lock on the file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that two who look do not see each other.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def is_claimed(claim: Path) -> bool:
    """Say whether a worker has ever taken the claim, or the service has closed it."""
    try:
        return claim.stat().st_size > 0
    except FileNotFoundError:
        return False


def claimed_by(claim: Path) -> int | None:
    """Return the process id of the worker that took the claim."""
    with contextlib.suppress(OSError, ValueError):
        pid = int(claim.read_text())
        return None if pid == _CLOSED else pid
    return None


def close_claim(claim: Path) -> bool:
    """See to it that no worker can take the claim from now on, not even one that was spawned already.

    Returns False when a worker holds it.
    """
    handle = os.open(claim, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_size == 0:
            os.write(handle, f"{_CLOSED}\n".encode())
            os.fsync(handle)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
