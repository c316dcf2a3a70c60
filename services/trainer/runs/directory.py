"""A run's directory: what the service and the worker tell each other, and all that a restart finds.

written by the service                        written by the worker
run.json           what was approved          claim, alive    see `locks`
resolved_spec.bin  the bytes that were signed events.jsonl    what happens, a line each
approval           until it is activated      usage.json      memory in use now
inputs.json        where the inputs stand     checkpoints/    step-00000120/ …
keepalive          until when it may go on    artifact/       what it made
cancel             why and how fast to stop   outcome.json    how it ended: its last act
journal.jsonl      what WatchRun serves       worker.log      what it printed
released           its memory is free
"""

import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from services.common import atomic
from services.common.names import run_name
from services.common.spec_wire import parse_resolved
from services.common.specs import Checkpoint, DeviceKind, ResolvedSpec
from services.trainer.node import DeviceAmount


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What was approved: `run.json`."""

    run: str
    project: str
    spec_sha256: str
    device: DeviceKind
    """The kind that trains."""
    amounts: tuple[DeviceAmount, ...]
    """What is reserved on each device."""
    predicted_bytes: int
    """What is reserved on the device that trains."""
    start_from: Checkpoint | None
    create_time: datetime
    boot_id: str
    """The machine's boot in which it was accepted: no process outlives it."""


class StopReason(StrEnum):
    """Why a run is to stop."""

    REQUEST = "request"
    MAX_DURATION = "max_duration"
    NODE_LEASE = "node_lease"
    """Nobody wants the job to end: it goes on elsewhere. Never written to `cancel`."""


@dataclass(frozen=True, kw_only=True)
class StopIntent:
    """That a run is to stop, and how long it gets to write a checkpoint: `cancel`."""

    reason: StopReason
    grace_s: float


_RECORD = TypeAdapter(RunRecord)
_INTENT = TypeAdapter(StopIntent)


class RunDirectory:
    """The paths of one run and its small files. Everything here blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record_file = path / "run.json"
        self.spec_file = path / "resolved_spec.bin"
        self.approval_file = path / "approval"
        self.inputs_file = path / "inputs.json"
        self.cancel_file = path / "cancel"
        self.journal_file = path / "journal.jsonl"
        self.released_file = path / "released"
        self.claim = path / "claim"
        self.alive = path / "alive"
        self.keepalive = path / "keepalive"
        self.events_file = path / "events.jsonl"
        self.usage_file = path / "usage.json"
        self.outcome_file = path / "outcome.json"
        self.log_file = path / "worker.log"
        self.checkpoints = path / "checkpoints"
        self.artifact = path / "artifact"

    def record(self) -> RunRecord:
        """Read what was approved."""
        return _RECORD.validate_json(self.record_file.read_bytes())

    def spec(self) -> ResolvedSpec:
        """Read the spec that was signed."""
        return parse_resolved(self.spec_file.read_bytes())

    def approval(self) -> str:
        """Read the approval's token. Empty once it was used."""
        try:
            return self.approval_file.read_text()
        except FileNotFoundError:
            return ""

    def write_approval(self, token: str) -> None:
        """Put a fresh approval in the place of an older one."""
        atomic.write_text(self.approval_file, token, 0o600)

    def intent(self) -> StopIntent | None:
        """Read whether the run is to stop."""
        try:
            return _INTENT.validate_json(self.cancel_file.read_bytes())
        except FileNotFoundError:
            return None

    def write_intent(self, intent: StopIntent) -> None:
        """Write durably that the run is to stop."""
        atomic.write_json(self.cancel_file, _INTENT.dump_python(intent, mode="json"))

    def read_json(self, path: Path) -> Any:
        """Return what the worker wrote whole to `path`. None: nothing there, or nothing that can be read."""
        try:
            return json.loads(path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def keepalive_until(self) -> float | None:
        """Read until when the worker may go on, on CLOCK_BOOTTIME. None: for ever."""
        try:
            return float(self.keepalive.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_keepalive(self, until_s: float | None) -> None:
        """Tell the worker until when it may go on, should the service not come back."""
        # Whole, or a look in between would find no end. Not flushed: neither outlives the machine's boot.
        draft = self.path / ".keepalive"
        draft.write_text("" if until_s is None else f"{until_s!r}\n")
        draft.replace(self.keepalive)

    def mark_released(self) -> None:
        """Write down that the node has acknowledged the release."""
        atomic.write_bytes(self.released_file, b"")

    def local_checkpoints(self) -> dict[int, Path]:
        """Return the checkpoints that the worker has finished, by step in order."""
        found = {_step(path): path for path in self.checkpoints.glob("step-*") if path.is_dir()}
        return {step: found[step] for step in sorted(key for key in found if key is not None)}

    def drop_outputs(self) -> None:
        """Remove what a worker made, once it is in the store."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        shutil.rmtree(self.artifact, ignore_errors=True)


def _step(path: Path) -> int | None:
    digits = path.name.removeprefix("step-")
    return int(digits) if digits.isascii() and digits.isdigit() else None


class RunsRoot:
    """The directory of all runs. A run's directory is there whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        # Runs that a crash left half made or half deleted.
        for leftover in path.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def directory(self, job_id: str, attempt: int) -> RunDirectory:
        """Return a run's directory, which need not exist."""
        return RunDirectory(self.path / f"{job_id}-{attempt}")

    def create(self, record: RunRecord, spec: bytes, approval: str, journal: bytes) -> RunDirectory:
        """Make a run's directory, with the first lines of its journal."""
        # Beside its final name, on the same disk: the rename makes the run exist.
        beginning = self.path / f".new-{uuid.uuid4().hex}"
        beginning.mkdir()
        target = self.path / record.run.removeprefix("runs/")
        try:
            draft = RunDirectory(beginning)
            draft.record_file.write_bytes(_RECORD.dump_json(record, indent=1))
            draft.spec_file.write_bytes(spec)
            draft.journal_file.write_bytes(journal)
            draft.write_approval(approval)
            atomic.publish_directory(beginning, target)
        finally:
            shutil.rmtree(beginning, ignore_errors=True)
        return RunDirectory(target)

    def remove(self, directory: RunDirectory) -> None:
        """Remove a run's directory; a crash in between leaves nothing that looks like a run."""
        ending = self.path / f".deleted-{uuid.uuid4().hex}"
        directory.path.rename(ending)
        atomic.fsync_directory(self.path)
        shutil.rmtree(ending, ignore_errors=True)

    def scan(self) -> Iterator[tuple[str, RunDirectory]]:
        """Yield name and directory of every run."""
        for path in sorted(self.path.iterdir()):
            job_id, _, attempt = path.name.rpartition("-")
            if job_id and attempt.isdigit() and not path.name.startswith("."):
                yield run_name(job_id, int(attempt)), RunDirectory(path)
