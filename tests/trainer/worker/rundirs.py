"""Run directories as the service lays them out, and real workers on them."""

import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from services.common.spec_wire import serialize_resolved
from services.common.specs import Checkpoint, ResolvedSpec
from services.trainer.runs.directory import RunDirectory

LABELS = ("bar", "disc", "ring")
_START_S = 120.0


def png(label: str, number: int) -> bytes:
    """Return a small picture of a shape, a little different for every number."""
    draw_from = random.Random(f"{label} {number}")
    image = Image.new("RGB", (24, 20), (draw_from.randrange(60), 0, draw_from.randrange(60)))
    x, y = draw_from.randrange(2, 8), draw_from.randrange(2, 6)
    box, ink = (x, y, x + 12, y + 11), (255, draw_from.randrange(120, 255), 0)
    pen = ImageDraw.Draw(image)
    match LABELS.index(label) if label in LABELS else number % 3:
        case 0:
            pen.rectangle((x, y, x + 12, y + 3), fill=ink)
        case 1:
            pen.ellipse(box, fill=ink)
        case _:
            pen.ellipse(box, outline=ink)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_zip(path: Path, labels: Sequence[str] = LABELS, each: int = 12, **extra: bytes) -> Path:
    """Write a zip of one folder per label; `extra` maps names to bytes, `__` standing for a slash."""
    with zipfile.ZipFile(path, "w") as archive:
        for label in labels:
            for number in range(each):
                archive.writestr(f"{label}/{number:03d}.png", png(label, number))
        for name, data in extra.items():
            archive.writestr(name.replace("__", "/"), data)
    return path


def write_run(
    path: Path,
    spec: ResolvedSpec,
    data: Path,
    *,
    reserved_bytes: int = 8 << 30,
    start_from: Path | None = None,
    base_model: Path | None = None,
    model_root: Path | None = None,
) -> RunDirectory:
    """Write a run's directory as the service does before it spawns the worker."""
    path.mkdir(parents=True)
    directory = RunDirectory(path)
    content = serialize_resolved(spec)
    checkpoint = Checkpoint(step=1, digest="", size_bytes=0, attempt=1) if start_from else None
    record = {
        "run": "runs/test-1",
        "project": "default",
        "spec_sha256": hashlib.sha256(content).hexdigest(),
        "device": "cpu",
        "amounts": [{"device": "host", "reserved_bytes": reserved_bytes}],
        "predicted_bytes": reserved_bytes // 2,
        "start_from": None if checkpoint is None else vars(checkpoint),
        "create_time": datetime.now(UTC).isoformat(),
        "boot_id": "",
    }
    inputs = {
        "dataset_path": str(data),
        "base_model_dir": str(base_model) if base_model else None,
        "start_from_dir": str(start_from) if start_from else None,
        "model_root": str(model_root or path),
    }
    directory.record_file.write_text(json.dumps(record))
    directory.spec_file.write_bytes(content)
    directory.inputs_file.write_text(json.dumps(inputs))
    return directory


@contextmanager
def worker(directory: RunDirectory) -> Iterator[subprocess.Popen[bytes]]:
    """Start a worker as the service does; whatever is left of it at the end is killed."""
    with directory.log_file.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer.worker", str(directory.path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(directory: RunDirectory) -> dict[str, Any]:
    """Let a worker work to its end; return its outcome."""
    with worker(directory) as process:
        process.wait()
    return outcome(directory)


def outcome(directory: RunDirectory) -> dict[str, Any]:
    """Return the worker's last word."""
    assert directory.outcome_file.exists(), directory.log_file.read_text()
    found: dict[str, Any] = json.loads(directory.outcome_file.read_text())
    return found


def events(directory: RunDirectory, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the events so far, of one kind or all."""
    if not directory.events_file.exists():
        return []
    # A line that is being written may be seen in part.
    whole = directory.events_file.read_text().rpartition("\n")[0]
    found = [json.loads(line) for line in whole.splitlines()]
    return [event for event in found if kind in (None, event["type"])]


def wait_for_checkpoint(directory: RunDirectory, process: subprocess.Popen[bytes], step: int) -> Path:
    """Wait until the worker has told of a checkpoint of `step` or later, and return it."""
    until_s = time.monotonic() + _START_S
    while time.monotonic() < until_s:
        told = [event for event in events(directory, "checkpoint") if event["step"] >= step]
        if told:
            return directory.path / str(told[0]["path"])
        assert process.poll() is None, directory.log_file.read_text()
        time.sleep(0.02)
    raise AssertionError(directory.log_file.read_text())
