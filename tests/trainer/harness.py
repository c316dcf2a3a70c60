"""A trainer's process, its node and its store, as tests use them."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest

from services.common.auth import hash_token
from services.common.channels import connect
from services.common.errors import Code
from services.common.rpc import from_rpc_error
from services.common.spec_wire import serialize_resolved
from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    ModelSource,
    ResolvedModel,
    ResolvedSpec,
    SchedulingOptions,
    SecretReference,
    Task,
    TrainingSpec,
)
from services.common.store import BlobStore
from tests.common.processes import ServiceProcess
from tests.trainer.fake_node import NODE, FakeNode, approval
from weighbridge.trainer.v1 import resources_pb2, service_pb2, service_pb2_grpc

WORKER = Path(__file__).with_name("scripted_worker.py")
SCRIPTED = [sys.executable, str(WORKER)]
TOKEN = "gateway-token"

SUCCEEDED = resources_pb2.RUN_STATE_SUCCEEDED
FAILED = resources_pb2.RUN_STATE_FAILED
CANCELLED = resources_pb2.RUN_STATE_CANCELLED
LOST = resources_pb2.RUN_STATE_LOST
ACCEPTED = resources_pb2.RUN_STATE_ACCEPTED
STARTING = resources_pb2.RUN_STATE_STARTING
RUNNING = resources_pb2.RUN_STATE_RUNNING
CANCELLING = resources_pb2.RUN_STATE_CANCELLING
FINAL = {SUCCEEDED, FAILED, CANCELLED, LOST}


class Trainer:
    """A trainer service that can be killed and started again on the same state."""

    def __init__(self, directory: Path, node: FakeNode) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.node = node
        self.store = BlobStore(f"file://{directory / 'store'}")
        self.settings: dict[str, str] = {}
        self.process: ServiceProcess | None = None
        self._starts = 0
        self._channel: grpc.aio.Channel | None = None
        entry = {"identity": "gateway", "token_sha256": hash_token(TOKEN), "methods": ["*"]}
        (directory / "identities.json").write_text(json.dumps({"identities": [entry]}))
        (directory / "token").write_text("trainer-token")

    async def start(self, **settings: str) -> None:
        """Start the service and connect to it."""
        self._starts += 1
        self.settings |= settings
        log = self.directory / f"trainer-{self._starts}.log"
        self.process = ServiceProcess("services.trainer.server", self._environment(), log)
        address = await asyncio.to_thread(self.process.address)
        self._channel = connect(address, token=TOKEN)
        self.stub: Any = service_pb2_grpc.TrainerServiceStub(self._channel)

    async def kill(self) -> None:
        """Kill the service, and nothing else."""
        if self.process is not None:
            await asyncio.to_thread(self.process.kill)
        if self._channel is not None:
            await self._channel.close()

    async def terminate(self) -> None:
        """Ask the service to stop, and wait until it has."""
        assert self.process is not None
        self.process.terminate()
        await asyncio.to_thread(self.process.process.wait)

    async def start_another(self) -> str:
        """Start a second service on the same state, wait for its end, and return its log."""
        another = ServiceProcess(
            "services.trainer.server", self._environment(), self.directory / "another.log"
        )
        await asyncio.to_thread(another.process.wait)
        return another.log()

    async def restart(self, **settings: str) -> None:
        """Kill the service and start it again."""
        await self.kill()
        await self.start(**settings)

    def spec(self, *script: Any, **options: Any) -> bytes:
        """Return the bytes of a spec whose data set is a script for the worker."""
        data = json.dumps(script).encode()
        limit_s, secrets = options.get("max_duration_s"), options.get("secrets", ())
        spec = TrainingSpec(
            task=Task.IMAGE_CLASSIFICATION,
            model=ModelSource(config={"model_type": "vit"}),
            dataset="projects/default/datasets/script",
            scheduling=SchedulingOptions(max_duration_s=limit_s),
            secrets=tuple(SecretReference(env=env, secret=secret) for env, secret in secrets),
        )
        dataset = DatasetSummary(
            name=spec.dataset,
            digest=options.get("digest") or self.store.put_bytes(data),
            size_bytes=len(data),
            format=DatasetFormat.IMAGE_FOLDER_ZIP,
            example_count=1,
        )
        model = ResolvedModel(
            config_json="{}", model_type="vit", artifact_digest=options.get("artifact_digest", "")
        )
        return serialize_resolved(ResolvedSpec(spec=spec, model=model, dataset=dataset, resolver_version="1"))

    async def run(self, name: str, *script: Any, **options: Any) -> resources_pb2.Run:
        """Start an approved run whose worker follows the script."""
        spec = self.spec(*script, **options)
        return await self.start_run(name, spec, approval(name, spec, options.get("start_from")))

    async def accepts(self, name: str, *script: Any) -> bool:
        """Say whether the trainer starts a run now, or cannot yet."""
        try:
            await self.run(name, *script)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True

    async def start_run(self, name: str, spec: bytes, approved: Any) -> resources_pb2.Run:
        request = service_pb2.StartRunRequest(
            run=name, approval=approved, resolved_spec=spec, project="default"
        )
        started: resources_pb2.Run = await self.stub.StartRun(request)
        return started

    async def get(self, name: str) -> resources_pb2.Run:
        found: resources_pb2.Run = await self.stub.GetRun(service_pb2.GetRunRequest(name=name))
        return found

    async def cancel(self, name: str, grace_s: float | None = None) -> resources_pb2.Run:
        request = service_pb2.CancelRunRequest(name=name)
        if grace_s is not None:
            request.grace.FromNanoseconds(round(grace_s * 1e9))
        cancelled: resources_pb2.Run = await self.stub.CancelRun(request)
        return cancelled

    async def watch(self, name: str, cursor: str = "") -> AsyncIterator[resources_pb2.RunEvent]:
        request = service_pb2.WatchRunRequest(name=name, cursor=cursor)
        async for response in self.stub.WatchRun(request):
            yield response.event

    async def events(self, name: str, cursor: str = "") -> list[resources_pb2.RunEvent]:
        """Return every event until the run's last."""
        return [event async for event in self.watch(name, cursor)]

    async def ended(self, name: str) -> resources_pb2.Run:
        """Wait for a run's end and return it."""
        await self.events(name)
        return await self.get(name)

    async def until(self, name: str, state: int) -> None:
        """Wait until a run has reached a state."""
        async for event in self.watch(name):
            if event.state_change.state == state:
                return
        raise AssertionError(f"{name} ended before")

    async def delete(self, name: str) -> None:
        await self.stub.DeleteRun(service_pb2.DeleteRunRequest(name=name))

    def read_json(self, name: str, file: str) -> Any:
        """Return what stands in a file of a run's directory."""
        return json.loads((self.run_dir(name) / file).read_text())

    def files(self, directory: str) -> dict[str, str]:
        """Return the files of a directory and what stands in them."""
        return {path.name: path.read_text() for path in Path(directory).iterdir()}

    def public(self, name: str, kind: str, step: int | None = None) -> list[Any]:
        """Return the events of a kind that a run's journal holds."""
        lines = (self.run_dir(name) / "journal.jsonl").read_text().splitlines()
        events = [event[kind] for event in map(json.loads, lines) if kind in event]
        return [event for event in events if step in (None, event.get("step"))]

    def worker_command(self, name: str) -> list[str]:
        """Return what the service would spawn a run's worker with."""
        return [*SCRIPTED, str(self.run_dir(name))]

    def break_store(self) -> None:
        """Let the store take nothing any more."""
        incoming = self.directory / "store" / "incoming"
        shutil.rmtree(incoming)
        incoming.write_text("in the way")

    def mend_store(self) -> None:
        (self.directory / "store" / "incoming").unlink()

    def hanging_blob(self) -> str:
        """Return the digest of a blob whose bytes never come."""
        pipe = self.directory / "store" / "sha256" / "ff" / ("f" * 64)
        pipe.parent.mkdir(parents=True)
        os.mkfifo(pipe)
        return "sha256:" + "f" * 64

    def keep_secret(self, secret: str, value: str) -> None:
        """Put a secret where those of the project `default` stand."""
        directory = self.directory / "secrets" / "default"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / secret).write_text(value)

    def logs(self) -> str:
        """Return the ends of the service's logs, of every start."""
        logs = sorted(self.directory.glob("trainer-*.log"))
        return "\n".join(f"{log.name}\n{log.read_text()[-4000:]}" for log in logs)

    def run_dir(self, name: str) -> Path:
        return self.state / "runs" / name.removeprefix("runs/")

    def pid(self, name: str) -> int:
        """Return the process id of a run's worker."""
        return int((self.run_dir(name) / "claim").read_text())

    def processes(self, name: str) -> list[psutil.Process]:
        """Return all processes of a run."""
        mark = str(self.run_dir(name))
        return [process for process in psutil.process_iter() if _mark(process) == mark]

    def _environment(self) -> dict[str, str]:
        return {
            "WEIGHBRIDGE_IDENTITIES_FILE": str(self.directory / "identities.json"),
            "WEIGHBRIDGE_TOKEN_FILE": str(self.directory / "token"),
            "WEIGHBRIDGE_STATE_DIR": str(self.state),
            "WEIGHBRIDGE_SECRETS_DIR": str(self.directory / "secrets"),
            "WEIGHBRIDGE_STORE_URL": self.store.url,
            "WEIGHBRIDGE_NODE": NODE.removeprefix("nodes/"),
            "WEIGHBRIDGE_HARDWARE_TARGET": f"127.0.0.1:{self.node.port}",
            # The port is the system's choice and read from the log: nobody dials what is reported.
            "WEIGHBRIDGE_ADVERTISE": "trainer.test:1",
            "WEIGHBRIDGE_WORKER_COMMAND": json.dumps(SCRIPTED),
            "WEIGHBRIDGE_PROBED_PACKAGES": json.dumps(["json", "no_such_package"]),
            "WEIGHBRIDGE_REPORT": "0.2",
            "WEIGHBRIDGE_DRAIN": "0",
            "WEIGHBRIDGE_GRACE": "0",
            **self.settings,
        }


def _mark(process: psutil.Process) -> str | None:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.environ().get("WEIGHBRIDGE_RUN_DIR")
    except psutil.Error:
        return None


@asynccontextmanager
async def trainer_at(directory: Path, **settings: str) -> AsyncIterator[Trainer]:
    """Start a trainer and its node; afterwards nothing of either is left."""
    node = FakeNode()
    await node.start()
    trainer = Trainer(directory, node)
    try:
        await trainer.start(**settings)
        yield trainer
    finally:
        # Shown with a test that failed.
        sys.stdout.write(trainer.logs())
        await trainer.kill()
        await node.stop()
        for process in psutil.process_iter():
            if str(_mark(process)).startswith(str(directory)):
                process.kill()


class Refusal:
    """What a call was refused with, once the block has ended."""

    message = ""
    metadata: dict[str, str]


@asynccontextmanager
async def refused(reason: str, code: Code | None = None) -> AsyncIterator[Refusal]:
    """Expect the call in the block to be refused for this reason."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    error = from_rpc_error(caught.value)
    assert error.reason == reason, error
    assert code is None or error.code == code
    refusal.message, refusal.metadata = str(error), error.metadata


async def eventually(condition: Callable[[], Any], patience_s: float = 60) -> None:
    """Wait until a condition holds; the patience only ends a test that hangs."""
    async with asyncio.timeout(patience_s):
        while True:
            value = condition()
            if isinstance(value, Awaitable):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)


def shape(events: list[resources_pb2.RunEvent]) -> list[str]:
    """Return what happened, in short: states and steps."""
    return [_short(event) for event in events]


def _short(event: resources_pb2.RunEvent) -> str:
    kind = event.WhichOneof("event") or "none"
    if kind == "state_change":
        return resources_pb2.RunState.Name(event.state_change.state).removeprefix("RUN_STATE_")
    if kind in ("progress", "checkpoint", "evaluation"):
        return f"{kind} {getattr(event, kind).step}"
    return kind
