"""Starts services as processes of their own and reads their log."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """A service's process; its log goes to a file, one JSON object a line."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        variables = {**os.environ, "WEIGHBRIDGE_LOG_FORMAT": "json", **environment}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module], cwd=ROOT, env=variables, stdout=output, stderr=output
            )

    def records(self, message: str) -> list[dict[str, Any]]:
        """Return the log's records with this message."""
        lines = [line for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [record for record in map(json.loads, lines) if record["message"] == message]

    def log(self) -> str:
        """Return the whole log."""
        return self._log.read_text()

    def address(self) -> str:
        """Return where it serves, once it does."""
        wait_for(lambda: self.records("serving") or self.process.poll() is not None)
        found = self.records("serving")
        assert found, f"the service did not start:\n{self.log()}"
        return str(found[-1]["address"])

    def terminate(self) -> None:
        """Ask it to drain and stop."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def service(module: str, environment: Mapping[str, str], log: Path) -> Iterator[ServiceProcess]:
    """Start a service and kill it after the block."""
    process = ServiceProcess(module, environment, log)
    try:
        yield process
    finally:
        process.kill()


def wait_for(condition: Callable[[], Any], patience_s: float = 60) -> None:
    """Wait until a condition holds; the patience only ends a test that hangs."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.02)
