"""The worker's side of the two locks by which a run is known; see `runs.locks`."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

_ALIVE_PATIENCE_S = 5.0
_ALIVE_PAUSE_S = 0.05


class RunHold:
    """Both locks of a run. They end with the process, and `alive` with the last of its children."""

    def __init__(self, *handles: int) -> None:
        self._handles = handles

    def __enter__(self) -> "RunHold":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the run."""
        for handle in self._handles:
            os.close(handle)


def take_run(path: Path) -> RunHold | None:
    """Take the run's claim and its lock `alive`. None: another worker has or had it, or it was closed."""
    # What stands in a claim outlives the lock on it: a run that had a worker never gets a second one.
    claim = os.open(path / "claim", os.O_RDWR | os.O_CREAT, 0o644)
    if not _locked(claim, patience_s=0.0) or os.fstat(claim).st_size > 0:
        os.close(claim)
        return None
    alive = os.open(path / "alive", os.O_RDWR | os.O_CREAT, 0o644)
    # A loader's process that outlives its parent still uses memory: the run lives while it does.
    os.set_inheritable(alive, True)
    # The service looks at this lock by taking it for a moment.
    if not _locked(alive, _ALIVE_PATIENCE_S):
        os.close(alive)
        os.close(claim)
        return None
    # Only now: a claim with a process id in it and nobody alive means that the worker was lost.
    os.write(claim, f"{os.getpid()}\n".encode())
    os.fsync(claim)
    return RunHold(claim, alive)


def _locked(handle: int, patience_s: float) -> bool:
    until_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                return False
            time.sleep(_ALIVE_PAUSE_S)
        else:
            return True
