"""The events that the worker writes, read as they come."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from services.trainer.runs.records import (
    Evaluation,
    Event,
    Notice,
    Preparation,
    Progress,
    RunState,
    StateChange,
)

log = logging.getLogger(__name__)

# What is read at a time, and the longest line that is believed to be an event.
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LocalCheckpoint:
    """A checkpoint that the worker has finished and that is not in the store yet."""

    step: int
    epoch: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerLine:
    """One line of `events.jsonl`."""

    event: Event | LocalCheckpoint
    """What happened."""
    end: int
    """Offset of the byte after the line."""


_KINDS: dict[str, TypeAdapter[Any]] = {
    "phase": TypeAdapter(Preparation),
    "notice": TypeAdapter(Notice),
    "progress": TypeAdapter(Progress),
    "evaluation": TypeAdapter(Evaluation),
    "checkpoint": TypeAdapter(LocalCheckpoint),
}


def read_worker_events(path: Path, offset: int) -> Iterator[WorkerLine]:
    """Yield the events of whole lines from `offset` on. A line that is still being written waits for its end.

    A whole line that is no event is logged and passed over: it was torn by a full disk, say.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while line := file.readline(_BLOCK_BYTES):
            offset += len(line)
            if not line.endswith(b"\n"):
                # A block without an end is no event of ours: what follows up to the end is passed over too.
                if len(line) < _BLOCK_BYTES:
                    return
                continue
            event = _parse(line)
            if event is not None:
                yield WorkerLine(event, offset)


def _parse(line: bytes) -> Event | LocalCheckpoint | None:
    try:
        raw = json.loads(line)
        kind = raw.pop("type")
        # How many steps there will be comes with each progress.
        if kind == "started":
            return StateChange(state=RunState.RUNNING)
        event: Event | LocalCheckpoint = _KINDS[kind].validate_python(raw)
        return event
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        log.warning("a worker's line is no event", extra={"line": line[:200], "error": str(error)})
        return None
