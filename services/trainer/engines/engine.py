"""What runs need of whatever runs their workers.

Truth about a worker is in its run's directory: the locks `claim` and `alive`, which work across containers of
one machine as they do across processes, and `outcome.json`. An engine adds what only it can know.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from services.trainer.runs.directory import RunDirectory

# Every process of a run has the run's directory in its environment, under this name.
MARK = "WEIGHBRIDGE_RUN_DIR"


class WorkerState(Enum):
    """Whether a run has a worker."""

    ABSENT = auto()
    """None has claimed the run yet."""
    LIVING = auto()
    GONE = auto()
    """One had claimed it and is no more."""


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """What an engine saw of a worker's end, beside the outcome that the worker left or did not."""

    status: int | None = None
    """Its exit status, or minus a signal. None: nobody saw."""
    detail: str = ""
    """What kept it from being started."""
    out_of_memory: bool = False
    """Whether the system killed a process of it for going past the run's memory limit."""


class Engine(Protocol):
    """Starts workers; finds and ends those that it or an earlier service started. Everything here blocks.

    Each method raises PeerUnavailable where what the engine works through cannot be reached now.
    """

    def spawn(self, directory: RunDirectory, env: Mapping[str, str]) -> None:
        """Start a worker on the run; where another has claimed it, the new one ends itself."""

    def state(self, directory: RunDirectory) -> WorkerState:
        """Say whether the run has a worker."""

    def end(self, directory: RunDirectory) -> WorkerEnd:
        """Return what was seen of the end of a worker that is no more."""

    def terminate(self, directory: RunDirectory) -> None:
        """Ask the worker to write a checkpoint and end (SIGTERM)."""

    def kill(self, directory: RunDirectory) -> bool:
        """Kill every process of the run. Returns False while one is left: call again."""

    def forget(self, directory: RunDirectory) -> None:
        """Drop what is kept about the worker of a run that has ended. Idempotent."""
