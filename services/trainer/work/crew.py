"""The other ranks' processes: forked by the first one, watched by it, and ended with it.

They are in its process group and carry the run's mark and its lock, so that whoever finds, measures or kills
the run's worker reaches them too.
"""

import ctypes
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict

from services.common.failures import Failure
from services.trainer.runs.failing import describe_exit
from services.trainer.work.ranks import Ranks, SharedBytes

_LOOK_S = 0.1
_WORD_S = 3.0
_PR_SET_PDEATHSIG = 1
# What a pipe holds whatever the system: a failure is smaller, and who writes it waits for no reader.
_TOLD_BYTES = 1 << 16

Lost = Callable[[int, Failure | None, str], None]
"""Is told a rank's number, what it failed with, if it left word of that, and how its process ended."""


class Crew:
    """The other ranks, as the first one sees them."""

    def __init__(self, ranks: Ranks, pids: Mapping[int, int], told: Mapping[int, int]) -> None:
        """`pids` and `told`, the reading end of each one's pipe, are by the ranks' numbers."""
        self.ranks = ranks
        self._left = dict(pids)
        self._told = told
        self._ending = threading.Event()
        self._watching: threading.Thread | None = None

    def watch(self, lost: Lost) -> None:
        """Call `lost`, in a thread, of each rank that ends before its work is done."""
        if self._left:
            self._watching = threading.Thread(target=self._look, args=(lost,), name="rank-watch", daemon=True)
            self._watching.start()

    def wait_for_word(self) -> None:
        """Leave the watch the time that it needs to see who else has ended, and to end this process."""
        if self._watching is not None:
            self._watching.join(_WORD_S)

    def end(self) -> None:
        """Kill those that are left."""
        self._ending.set()
        if self._watching is not None and self._watching is not threading.current_thread():
            self._watching.join()
        for pid in self._left.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._left.clear()

    def _look(self, lost: Lost) -> None:
        while self._left and not self._ending.wait(_LOOK_S):
            for number, pid in list(self._left.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended == 0:
                    continue
                del self._left[number]
                if status != 0:
                    detail = describe_exit(os.waitstatus_to_exitcode(status))
                    lost(number, self._failure_told_by(number), detail)

    def _failure_told_by(self, number: int) -> Failure | None:
        # Never waits: a loader's process may hold the other end of the pipe for longer.
        os.set_blocking(self._told[number], False)
        with suppress(BlockingIOError):
            if told := os.read(self._told[number], _TOLD_BYTES):
                return Failure(**json.loads(told))
        return None


class Follower:
    """One of the other ranks, as it sees itself."""

    def __init__(self, ranks: Ranks, tell: int) -> None:
        self.ranks = ranks
        self._tell = tell

    def tell(self, failure: Failure) -> None:
        """Leave word for the first rank of what this one fails with."""
        os.write(self._tell, json.dumps(asdict(failure)).encode()[:_TOLD_BYTES])


def fork_ranks(count: int) -> Crew | Follower:
    """Fork the run's other ranks, if it has any; return once in each rank, with what that one has to do.

    Call it before anything that does not survive a fork: threads, and whatever a GPU's driver keeps.
    """
    gpu_bytes = SharedBytes(count)
    pids: dict[int, int] = {}
    told: dict[int, int] = {}
    first = os.getpid()
    for number in range(1, count):
        told[number], tell = os.pipe()
        pids[number] = os.fork()
        if pids[number] == 0:
            _become_follower(first)
            ranks = Ranks(number, count, gpu_bytes)
            ranks.see_own_gpu_only()
            return Follower(ranks, tell)
        os.close(tell)
    ranks = Ranks(0, count, gpu_bytes)
    ranks.see_own_gpu_only()
    return Crew(ranks, pids, told)


def _become_follower(first: int) -> None:
    # Whoever asks the run to stop asks the first rank; all stop in the same step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Killed alone, the first rank could end nobody any more.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != first:
        os._exit(1)
