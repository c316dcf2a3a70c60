"""One service's process: started, asked whether it serves, restarted, stopped."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc

from weighbridge.cli.up.home import Home
from weighbridge.cli.up.services import GRACE_S, Service

# Draining, then workers that write a checkpoint.
STOP_S = 2 * GRACE_S + 10
_LOG_LIMIT_BYTES = 16 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
# A service that lived so long did not die of its start.
_STEADY_S = 60.0
_GUARD = "weighbridge.cli.up.guard"
_HEALTH = "/grpc.health.v1.Health/Check"
# A HealthCheckResponse whose status is SERVING. The message is two bytes: no reason to depend on its stubs.
_SERVING = b"\x08\x01"


class ServiceProcess:
    """A service and the process that it has now."""

    def __init__(self, service: Service, home: Home) -> None:
        self.service = service
        self.log = home.log_file(service.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._restart_s: float | None = None

    def start(self) -> None:
        """Start it; its log goes on."""
        _rotate(self.log)
        command = [sys.executable, "-P", "-m", _GUARD, str(os.getpid()), self.service.module]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                # What it leaves, such as a core, lies beside its log; -P keeps that off sys.path.
                cwd=self.log.parent,
                env=dict(self.service.env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for `weighbridge up`, which stops the services in order.
                start_new_session=True,
            )
        self._started_s, self._restart_s = time.monotonic(), None

    def ended(self) -> int | None:
        """Return its exit status if it has ended, or minus a signal."""
        return None if self._process is None else self._process.poll()

    def serves(self) -> bool:
        """Ask whether it takes calls."""
        # A channel of its own each time: one that was refused waits longer and longer before it tries again.
        with grpc.insecure_channel(self.service.address) as channel:
            check = channel.unary_unary(_HEALTH, request_serializer=bytes, response_deserializer=bytes)
            try:
                return check(b"", timeout=1.0) == _SERVING
            except grpc.RpcError:
                return False

    def attend(self) -> str | None:
        """Restart it if it died and its pause is over; return what there is to tell."""
        status = self.ended()
        if status is None:
            return None
        now_s = time.monotonic()
        if self._restart_s is None:
            steady = now_s - self._started_s > _STEADY_S
            self._pause_s = _FIRST_PAUSE_S if steady else self._pause_s
            self._restart_s = now_s + self._pause_s
            told = f"{self.service.name} ended ({_why(status)}), see {self.log}"
            told += f"; it starts again in {self._pause_s:g} s"
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
            return told
        if now_s >= self._restart_s:
            self.start()
        return None

    def stop(self) -> None:
        """Ask it to drain and wait for that; what does not end is killed, with the children it left."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        # Estimator and probe children are in its group; workers are not, they have groups of their own.
        self.kill()

    def kill(self) -> None:
        """Kill it and what is left of its process group."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        try:
            text = self.log.read_bytes()[-16_384:].decode(errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


def _why(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > _LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".log.1"))
