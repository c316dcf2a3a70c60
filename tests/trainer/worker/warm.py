"""A process that has imported all that a worker imports, and forks workers, each in a session of its own.

Importing takes ten seconds and training a tiny model one: what a worker does once it has begun is tested on
these. That it begins well is tested on workers started as the service starts them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from services.trainer.runs.directory import RunDirectory

_PATIENCE_S = 120.0


class WarmWorker:
    """A worker that was forked."""

    def __init__(self, pid: int, directory: RunDirectory) -> None:
        self.pid = pid
        self.directory = directory

    def lives(self) -> bool:
        """Say whether its process is there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def wait(self) -> None:
        """Wait until it is gone."""
        self.wait_until(lambda: not self.lives(), dies=True)

    def wait_until(self, holds: Callable[[], bool], dies: bool = False) -> None:
        """Wait until something holds that a living worker brings about."""
        until_s = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < until_s, self.directory.log_file.read_text()
            assert dies or self.lives(), self.directory.log_file.read_text()
            time.sleep(0.005)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the worker alone."""
        os.kill(self.pid, number)

    def __enter__(self) -> "WarmWorker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Warm:
    """The process that forks them."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, directory: RunDirectory) -> WarmWorker:
        """Fork a worker on a run."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{directory.path}\n")
        self._process.stdin.flush()
        return WarmWorker(int(self._process.stdout.readline()), directory)

    def run(self, directory: RunDirectory) -> RunDirectory:
        """Let a worker work to its end."""
        with self.start(directory) as worker:
            worker.wait()
        assert directory.outcome_file.exists(), directory.log_file.read_text()
        return directory


@contextlib.contextmanager
def warm() -> Iterator[Warm]:
    """Start the process; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.trainer.worker.warm"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        text=True,
    )
    try:
        yield Warm(process)
    finally:
        process.kill()
        process.communicate()


def _serve() -> None:
    import services.trainer.work.job
    import services.trainer.work.text.data  # noqa: F401 - what takes long
    from services.trainer.recipes import TASKS, recipe_for
    from services.trainer.worker import main

    for task in TASKS:
        recipe_for(task)

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become_worker(Path(line.strip()))
            os._exit(main([line.strip()]))
        print(pid, flush=True)  # noqa: T201 - the answer


def _become_worker(path: Path) -> None:
    os.setsid()
    log = os.open(path / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for handle, number in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(handle, number)


if __name__ == "__main__":
    _serve()
