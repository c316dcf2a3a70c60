"""A worker that keeps to the run directory's rules and does what its data set says: fast, and without torch.

The data set is a JSON list of steps, each a list of a name and arguments: see `Worker`.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn


class Worker:
    """One run's worker; each public method is a step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._step = 0
        self._claim = os.open(directory / "claim", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(0) from None
        # Somebody was here before, and is gone: the service knows, and this one came too late.
        if os.fstat(self._claim).st_size:
            raise SystemExit(0)
        alive = os.open(directory / "alive", os.O_RDWR | os.O_CREAT, 0o644)
        os.set_inheritable(alive, True)
        fcntl.flock(alive, fcntl.LOCK_EX)
        os.write(self._claim, f"{os.getpid()}\n".encode())
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def work(self) -> None:
        inputs = json.loads((self._directory / "inputs.json").read_text())
        for name, *arguments in json.loads(Path(inputs["dataset_path"]).read_text()):
            getattr(self, name)(*arguments)

    def emit(self, event: dict[str, Any]) -> None:
        line = json.dumps({"time": time.time(), **event}) + "\n"
        with (self._directory / "events.jsonl").open("ab", buffering=0) as events:
            events.write(line.encode())

    def started(self) -> None:
        self.emit({"type": "started", "total_steps": 100})

    def progress(self, count: int, pause_s: float = 0.0) -> None:
        for _ in range(count):
            self._step += 1
            self.emit({"type": "progress", "step": self._step, "total_steps": 100, "loss": 1 / self._step})
            time.sleep(pause_s)

    def write(self, text: str) -> None:
        with (self._directory / "events.jsonl").open("ab", buffering=0) as events:
            events.write(text.encode())

    def say(self, text: str) -> None:
        os.write(1, text.encode())

    def usage(self, used_bytes: int) -> None:
        usage = [{"device": "host", "used_bytes": used_bytes, "peak_bytes": used_bytes}]
        self._put("usage.json", json.dumps(usage))

    def wait_for(self, name: str) -> None:
        """Wait until the test has made a file of this name in the run's directory."""
        while not (self._directory / name).exists():
            time.sleep(0.02)

    def mark(self, name: str) -> None:
        """Make a file that the test waits for."""
        (self._directory / name).touch()

    def save(self, step: int, told: bool = True) -> None:
        """Make a checkpoint and, if `told`, say so."""
        final = self._directory / "checkpoints" / f"step-{step:08d}"
        draft = final.with_name(".draft")
        draft.mkdir(parents=True)
        (draft / "weights").write_text(f"weights of step {step}")
        draft.rename(final)
        if told:
            path = f"checkpoints/{final.name}"
            self.emit({"type": "checkpoint", "step": step, "epoch": step / 10, "path": path, "metrics": {}})

    def ignore_sigterm(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def give_birth(self, detached: bool = False) -> None:
        """Start a child, and it a child, that ignore SIGTERM and do not end."""
        code = (
            "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "sys.argv[1:] and subprocess.Popen([sys.executable, '-c', sys.argv[1]]);"
            "time.sleep(1000)"
        )
        child = subprocess.Popen([sys.executable, "-c", code, code], start_new_session=detached)
        (self._directory / "child").write_text(str(child.pid))

    def take_memory(self, size_bytes: int) -> None:
        """Use so much, for ever."""
        self._taken = [b"1" * (1 << 24) for _ in range(size_bytes >> 24)]

    def child_takes_memory(self, size_bytes: int) -> None:
        """Let a child use so much, and go on when it is dead."""
        code = f"x = [b'1' * (1 << 24) for _ in range({size_bytes >> 24})]"
        subprocess.run([sys.executable, "-c", code], check=False)

    def sleep(self, duration_s: float) -> None:
        time.sleep(duration_s)

    def die(self, number: int = signal.SIGKILL) -> None:
        os.kill(os.getpid(), number)

    def exit(self, status: int) -> NoReturn:
        os._exit(status)

    def raw_outcome(self, text: str) -> None:
        self._put("outcome.json", text)

    def succeed(self, peak_bytes: int = 7) -> None:
        artifact = self._directory / "artifact"
        artifact.mkdir(exist_ok=True)
        (artifact / "model.bin").write_bytes(b"m" * 3_000_000)
        (artifact / "metrics.json").write_text("{}")
        self._end(
            {"state": "succeeded", "failure": None, "artifact": "artifact", "peaks": _peaks(peak_bytes)}
        )

    def link_artifact(self) -> None:
        """Put a link into the artifact, which is no file."""
        (self._directory / "artifact").mkdir()
        (self._directory / "artifact" / "link").symlink_to("/etc/passwd")

    def fail(self, reason: str) -> None:
        failure = {"reason": reason, "message": "it went wrong", "metadata": {"step": "3"}}
        self._end({"state": "failed", "failure": failure, "artifact": None, "peaks": _peaks(7)})

    def _end(self, outcome: dict[str, Any]) -> None:
        self._put("outcome.json", json.dumps({"metrics": {}, **outcome}))

    def _put(self, name: str, text: str) -> None:
        draft = self._directory / f".{name}"
        draft.write_text(text)
        draft.rename(self._directory / name)

    def _on_sigterm(self, number: int, frame: object) -> None:
        self.save(1000 + self._step)
        self._end({"state": "cancelled", "failure": None, "artifact": None, "peaks": _peaks(7)})
        os._exit(0)


def _peaks(peak_bytes: int) -> list[dict[str, Any]]:
    return [{"device": "host", "used_bytes": 0, "peak_bytes": peak_bytes}]


if __name__ == "__main__":
    Worker(Path(sys.argv[1])).work()
