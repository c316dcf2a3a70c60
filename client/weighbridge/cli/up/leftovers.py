"""Workers that a trainer left behind: found by the lock they hold, ended with their whole process group.

The trainer ends its workers itself when it is stopped. This is for the one that could not: it was killed, or
is between two starts. Their jobs go on as the next attempt, from the last checkpoint, at the next start.
"""

import fcntl
import os
import signal
import time
from pathlib import Path

_PATIENCE_S = 10.0


def end_workers(runs: Path) -> int:
    """Kill every living run below `runs` and return how many there were."""
    living = [directory for directory in runs.glob("*-*") if _lives(directory)]
    for directory in living:
        _kill(directory)
    return len(living)


def _lives(directory: Path) -> bool:
    """Say whether a process holds the run's `alive`, which every process of the run inherits."""
    try:
        with (directory / "alive").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _kill(directory: Path) -> None:
    """Kill the group that the claim names while the lock proves that it is the run's."""
    try:
        leader = int((directory / "claim").read_text())
    except (OSError, ValueError):
        return
    end_s = time.monotonic() + _PATIENCE_S
    # A claim of 0 is a run that the service closed: no process has that id, and group 0 would be this one.
    while leader > 1 and _lives(directory) and time.monotonic() < end_s:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.05)
