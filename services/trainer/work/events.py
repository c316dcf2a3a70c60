"""The worker's event log: a line of JSON for each thing that happens, in one write, so that none is mixed."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.trainer.runs.records import DevicePeak, NoticeLevel, StartPhase


class EventWriter:
    """Appends events for the service to read."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def phase(self, phase: StartPhase, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Tell what is done before the training, and how far it is where bytes can be counted."""
        self._write("phase", phase=phase.value, done_bytes=done_bytes, total_bytes=total_bytes)

    def notice(self, message: str, level: NoticeLevel = NoticeLevel.INFO) -> None:
        """Remark on something."""
        self._write("notice", level=level.value, message=message)

    def started(self, total_steps: int) -> None:
        """Tell that training begins."""
        self._write("started", total_steps=total_steps)

    def progress(self, figures: Mapping[str, float | None], memory: Sequence[DevicePeak]) -> None:
        """Tell how far training is, by the fields of `records.Progress`."""
        self._write("progress", **_finite(figures), memory=[vars(peak) for peak in memory])

    def evaluation(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Tell an evaluation's figures."""
        self._write("evaluation", step=step, epoch=epoch, metrics=_finite(metrics))

    def checkpoint(self, step: int, epoch: float, path: str, metrics: Mapping[str, float]) -> None:
        """Tell of a checkpoint that stands whole on the disk; `path` is relative to the run's directory."""
        self._write("checkpoint", step=step, epoch=epoch, path=path, metrics=_finite(metrics))

    def _write(self, kind: str, **fields: Any) -> None:
        line = json.dumps({"time": time.time(), "type": kind, **fields}, allow_nan=False)
        # One write at the end of the file: neither threads nor a kill can leave half a line before another.
        os.write(self._handle, line.encode() + b"\n")


def _finite(figures: Mapping[str, float | None]) -> dict[str, float]:
    """Leave out what JSON cannot say: an infinite norm, and what is not known."""
    return {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
