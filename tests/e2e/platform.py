"""The whole platform as real processes, started as `weighbridge up` starts them; a test may kill any."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc

from weighbridge import Client
from weighbridge._claims import lock
from weighbridge.cli.up.home import Home
from weighbridge.cli.up.identities import create_identities
from weighbridge.cli.up.leftovers import end_workers
from weighbridge.cli.up.process import ServiceProcess
from weighbridge.cli.up.services import choose_ports, plan
from weighbridge.exceptions import WeighbridgeError
from weighbridge.gateway.v1.resources_pb2 import FleetNodeState
from weighbridge.jobs import Job

# How long a test waits for something that must happen; no figure of performance.
PATIENCE_S = 180.0
T = TypeVar("T")


class Platform:
    """Gateway, hardware and trainer in a directory of their own."""

    def __init__(self, root: Path, settings: Mapping[str, str]) -> None:
        self.home = Home(root)
        self.home.create()
        create_identities(self.home)
        ports = choose_ports({"gateway": 0, "hardware": 0, "trainer": 0})
        with _environment(settings):
            services = plan(self.home, ports, "local", keep_running=True)
        self.processes = {service.name: ServiceProcess(service, self.home) for service in services}
        self.client = Client(self.address("gateway"), self.token("user"))
        self.home.write_client_file(self.address("gateway"))

    def start(self, *names: str) -> None:
        """Start services (none named: all) and wait until they serve and the node takes jobs."""
        chosen = [self.processes[name] for name in names or self.processes]
        for process in chosen:
            process.start()
        for process in chosen:
            eventually(process.serves)
        eventually(self.ready)

    def kill(self, name: str) -> None:
        """SIGKILL a service."""
        self.processes[name].kill()

    @contextlib.contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Let a service stand still (SIGSTOP) for the block."""
        process = self.processes[name]._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End everything, workers included."""
        self.client.close()
        for process in self.processes.values():
            process.kill()
        end_workers(self.home.state_dir("trainer") / "runs")

    def ready(self) -> bool:
        """Say whether the node takes jobs."""
        return any(node.state == FleetNodeState.FLEET_NODE_STATE_READY for node in self.client.nodes())

    def address(self, name: str) -> str:
        """Return where a service answers."""
        return self.processes[name].service.address

    def token(self, identity: str) -> str:
        """Return an identity's token."""
        return self.home.token_file(identity).read_text().strip()

    def call(self, identity: str, method: Callable[..., Any], request: Any) -> Any:
        """Call a stub's method with an identity's token."""
        return method(request, timeout=60, metadata=[("authorization", f"Bearer {self.token(identity)}")])

    @contextlib.contextmanager
    def channel(self, name: str) -> Iterator[grpc.Channel]:
        """Open a plain channel to a service."""
        with grpc.insecure_channel(self.address(name)) as channel:
            yield channel

    def run_dir(self, job: Job, attempt: int = 1) -> Path:
        """Return the run directory of a job's attempt."""
        return self.home.state_dir("trainer") / "runs" / f"{job.id}-{attempt}"

    def worker(self, job: Job, attempt: int = 1) -> int:
        """Return the worker's process id, once it has claimed its run."""
        claim = self.run_dir(job, attempt) / "claim"
        return int(eventually(lambda: claim.exists() and claim.read_text().strip()))

    def holds_alive(self, run_dir: Path) -> bool:
        """Say whether a process of the run still lives."""
        if not (run_dir / "alive").exists():
            return False
        with (run_dir / "alive").open("r+b") as file:
            return not lock(file)

    def kill_worker(self, job: Job, attempt: int = 1) -> None:
        """SIGKILL the worker of an attempt with its whole group."""
        os.killpg(self.worker(job, attempt), signal.SIGKILL)

    def weights(self, job: Job, into: Path) -> bytes:
        """Return the bytes of the weights in a job's artifact."""
        shutil.rmtree(into, ignore_errors=True)
        return (job.download(into) / "model.safetensors").read_bytes()


def eventually(condition: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Return what `condition` returns once that is true; a call that fails counts as false.

    Raises AssertionError when that takes longer than `patience_s`.
    """
    end_s = time.monotonic() + patience_s
    last: object = None
    while time.monotonic() < end_s:
        try:
            result = condition()
        except (WeighbridgeError, grpc.RpcError, OSError) as error:
            # A service that was just killed refuses for a while.
            last = error
        else:
            if result:
                return result
            last = result
        time.sleep(0.1)
    raise AssertionError(f"not within {patience_s:g} s; last: {last!r}")


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
