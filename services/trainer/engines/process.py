"""The process engine: a worker is a process of this machine, in a session and process group of its own.

The service can die and come back: a worker is known by its locks and by a mark in its environment, which its
children inherit too. Process ids alone are never trusted, since the system gives them out again.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from services.trainer.engines.engine import MARK, WorkerEnd, WorkerState
from services.trainer.environment import inherited_environment
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.locks import claimed_by, is_claimed, is_held

_KILL_S = 1.0


class ProcessEngine:
    """An Engine whose workers are processes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def spawn(self, directory: RunDirectory, env: Mapping[str, str]) -> None:
        """Start a worker on the run; where another has claimed it, the new one ends itself."""
        with directory.log_file.open("ab") as output:
            self._children[directory.path] = subprocess.Popen(
                [*self._command, str(directory.path)],
                stdin=subprocess.DEVNULL,
                # Into a file, not a pipe: the worker goes on printing when the service is gone.
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**inherited_environment(), **env, MARK: str(directory.path)},
                start_new_session=True,
            )

    def state(self, directory: RunDirectory) -> WorkerState:
        """Say whether the run has a process."""
        child = self._children.get(directory.path)
        # Its own child is asked first: a probe of the claim's lock could make it lose the claim to nobody.
        if child is not None and child.poll() is None:
            return WorkerState.LIVING
        # `claim` too: between the two locks a worker holds only that.
        if is_held(directory.alive) or is_held(directory.claim):
            return WorkerState.LIVING
        return WorkerState.GONE if is_claimed(directory.claim) else WorkerState.ABSENT

    def end(self, directory: RunDirectory) -> WorkerEnd:
        """Return how the worker exited, which is known where this service was its parent."""
        child = self._children.get(directory.path)
        return WorkerEnd(status=None if child is None else child.poll())

    def terminate(self, directory: RunDirectory) -> None:
        """Ask the worker to write a checkpoint and end (SIGTERM)."""
        for process in self._members(directory):
            if process.pid == self._leader(directory):
                _signal(process, psutil.Process.terminate)

    def kill(self, directory: RunDirectory) -> bool:
        """Kill every process of the run. Returns False while one is left: call again."""
        end_s = time.monotonic() + _KILL_S
        while members := list(self._members(directory)):
            for process in members:
                _signal(process, psutil.Process.kill)
            if time.monotonic() >= end_s:
                return False
            time.sleep(0.02)
        return True

    def forget(self, directory: RunDirectory) -> None:
        """Drop what is kept about the worker of a run that has ended."""
        self._children.pop(directory.path, None)

    def _leader(self, directory: RunDirectory) -> int | None:
        child = self._children.get(directory.path)
        return claimed_by(directory.claim) or (None if child is None else child.pid)

    def _members(self, directory: RunDirectory) -> Iterator[psutil.Process]:
        """Yield every process that carries the run's mark or is in its group."""
        leader, mark = self._leader(directory), str(directory.path)
        child = self._children.get(directory.path)
        # Reaped first, or it would count as a member for ever.
        if child is not None:
            child.poll()
        running = [process for process in psutil.process_iter() if _runs(process)]
        marked = {process.pid for process in running if _mark(process) == mark}
        # A group outlives its leader. Where the leader's id belongs to a stranger now, so does the group.
        group_is_ours = leader in marked or leader not in {process.pid for process in running}
        for process in running:
            if process.pid in marked or (group_is_ours and leader is not None and _group(process) == leader):
                yield process


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.Error:
        return
