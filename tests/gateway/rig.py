"""A real gateway process with scripted peers around it."""

import asyncio
import contextlib
import hashlib
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from services.common.auth import hash_token
from services.common.channels import connect
from services.common.errors import ServiceError
from services.common.rpc import from_rpc_error
from services.common.specs import FileTree
from services.common.store import BlobStore
from services.common.wire import to_message
from tests.common.processes import ServiceProcess
from tests.gateway.archives import archive, good
from tests.gateway.fake_estimator import FakeEstimator
from tests.gateway.fake_node import FakeNode
from weighbridge.common.v1 import artifacts_pb2, training_spec_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2, service_pb2_grpc
from weighbridge.hardware.v1 import service_pb2_grpc as hardware_grpc

T = TypeVar("T")
PATIENCE_S = 40.0
State = resources_pb2.TrainingJob
FINAL = (State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED, State.STATE_REJECTED)

PEOPLE = {
    "alice": ("user", ["default", "many", "quota"]),
    "bob": ("user", ["other"]),
    "root": ("user", ["*"]),
    "node": ("hardware", []),
    "stranger": ("hardware", []),
}
SETTINGS = {
    "HEARTBEAT": "0.7",
    "NODE_LEASE": "3",
    "LOST_AFTER": "1",
    "DISPATCHER_TTL": "1",
    "TICK": "0.2",
    "BACKOFF": "0.05",
    "CANCEL_GRACE": "1",
    "SWEEP_DELAY": "0",
    "PEER_TIMEOUT": "10",
    "STORE_SHARED": "true",
    "MAX_OPEN_UPLOADS": "3",
    "UPLOAD_PART_BYTES": "1024",
    "MAX_UPLOAD_BYTES": "4000000",
    "MAX_PIXELS": "10000",
    "MAX_ITEM_BYTES": "3000000",
    "MAX_UNPACKED_BYTES": "5000000",
    "MAX_DATASET_ITEMS": "2000",
    "DRAIN": "0",
    "GRACE": "0",
}


class Caller:
    """Somebody's stubs. A call that fails raises the ServiceError that the gateway meant."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = connect(address, token=token)
        self._training = service_pb2_grpc.TrainingServiceStub(self.channel)
        self._fleet = service_pb2_grpc.FleetServiceStub(self.channel)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        stub: Any = self._training if hasattr(self._training, method) else self._fleet

        async def call(request: Any, **more: Any) -> Any:
            try:
                return await getattr(stub, method)(request, timeout=PATIENCE_S, wait_for_ready=True, **more)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error

        return call

    async def watch(self, name: str, cursor: str = "") -> AsyncIterator[resources_pb2.JobEvent]:
        """Yield a job's events to its end."""
        request = service_pb2.WatchTrainingJobRequest(name=name, cursor=cursor)
        try:
            async for response in self.stream("WatchTrainingJob", request):
                yield response.event
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def fleet(self) -> AsyncIterator[resources_pb2.FleetNode]:
        """Yield nodes and their changes."""
        async for response in self._fleet.WatchFleet(service_pb2.WatchFleetRequest(), timeout=PATIENCE_S):  # type: ignore[attr-defined]
            yield response.node

    def stream(self, method: str, request: Any) -> Any:
        """Return a stream of answers."""
        return getattr(self._training, method)(request, timeout=PATIENCE_S, wait_for_ready=True)


class Rig:
    """Gateway processes on one ledger, their callers, the estimator, and whatever nodes a test starts."""

    def __init__(self, directory: Path, ledger_url: str = "") -> None:
        self.directory = directory
        self.ledger_url = ledger_url or f"sqlite+aiosqlite:///{directory / 'ledger.db'}"
        self.store_url = f"file://{directory / 'store'}"
        self.store = BlobStore(self.store_url)
        self.estimator = FakeEstimator()
        self.nodes: list[FakeNode] = []
        self.processes: dict[str, ServiceProcess] = {}
        self.callers: list[Caller] = []
        self.opened: list[str] = []
        self.port = free_port()
        self._estimator_port = 0
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])

    async def start(self) -> None:
        """Start estimator and gateway, and upload a data set."""
        hardware_grpc.add_EstimatorServiceServicer_to_server(self.estimator, self._server)
        self._estimator_port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        methods = {"hardware": ["/weighbridge.gateway.v1.FleetService/*"]}
        entries = [
            {
                "identity": identity,
                "name": name,
                "token_sha256": hash_token(f"{name}-token"),
                "methods": methods.get(identity, ["*"]),
                "projects": projects,
            }
            for name, (identity, projects) in PEOPLE.items()
        ]
        (self.directory / "identities.json").write_text(json.dumps({"identities": entries}))
        (self.directory / "gateway.token").write_text("gateway-token\n")
        await self.start_gateway()
        self.alice, self.bob, self.root = (self.caller(name) for name in ("alice", "bob", "root"))
        await self.upload("digits", archive(good()))

    async def start_gateway(self, name: str = "gateway", port: int | None = None) -> None:
        """Start a gateway process and wait until it serves."""
        environment = {
            "WEIGHBRIDGE_PORT": str(port or self.port),
            "WEIGHBRIDGE_IDENTITIES_FILE": str(self.directory / "identities.json"),
            "WEIGHBRIDGE_TOKEN_FILE": str(self.directory / "gateway.token"),
            "WEIGHBRIDGE_STATE_DIR": str(self.directory / name),
            "WEIGHBRIDGE_STORE_URL": self.store_url,
            "WEIGHBRIDGE_LEDGER_URL": self.ledger_url,
            "WEIGHBRIDGE_ESTIMATOR_TARGET": f"127.0.0.1:{self._estimator_port}",
            "WEIGHBRIDGE_IMPORT_PREFIXES": f"file://{self.directory / 'imports'}",
            **{f"WEIGHBRIDGE_{key}": value for key, value in SETTINGS.items()},
        }
        log = self.directory / f"{name}-{len(list(self.directory.glob('*.log')))}.log"
        process = ServiceProcess("gateway.server", environment, log)
        self.processes[name] = process
        await asyncio.to_thread(process.address)

    async def kill_gateway(self, name: str = "gateway") -> None:
        """SIGKILL a gateway process."""
        await asyncio.to_thread(self.processes.pop(name).kill)

    async def restart_gateway(self) -> None:
        """Kill the gateway and start another one in its place."""
        await self.kill_gateway()
        await self.start_gateway()

    def caller(self, name: str, port: int | None = None) -> Caller:
        """Return somebody's stubs."""
        caller = Caller(f"127.0.0.1:{port or self.port}", f"{name}-token")
        self.callers.append(caller)
        return caller

    async def node(self, name: str = "one", capacity_bytes: int = 100, *, identity: str = "node") -> FakeNode:
        """Start a node and wait until it takes jobs."""
        node = FakeNode(f"nodes/{name}", capacity_bytes)
        self.nodes.append(node)
        await node.start()
        node.join(f"127.0.0.1:{self.port}", f"{identity}-token")
        await self.until(lambda: node.registered is not None)
        return node

    async def upload(
        self, dataset: str, data: bytes, caller: Caller | None = None, project: str = "default"
    ) -> Any:
        """Upload a data set in one go."""
        caller = caller or self.alice
        upload = await caller.CreateUpload(
            service_pb2.CreateUploadRequest(
                parent=f"projects/{project}", dataset_id=dataset, size_bytes=len(data), file_name="data.zip"
            )
        )
        await caller.WriteUpload(chunks(upload.name, data))
        finish = service_pb2.FinishUploadRequest(name=upload.name, sha256=hashlib.sha256(data).hexdigest())
        return await caller.FinishUpload(finish)

    async def create(self, caller: Caller | None = None, **fields: Any) -> str:
        """Create a job and return its name."""
        job = await (caller or self.alice).CreateTrainingJob(request(**fields))
        return str(job.name)

    async def job(self, name: str) -> resources_pb2.TrainingJob:
        """Read a job."""
        job: resources_pb2.TrainingJob = await self.root.GetTrainingJob(
            service_pb2.GetTrainingJobRequest(name=name)
        )
        return job

    async def cancel(self, name: str) -> None:
        """Ask a job to stop."""
        await self.root.CancelTrainingJob(service_pb2.CancelTrainingJobRequest(name=name))

    async def in_state(self, name: str, *states: int) -> resources_pb2.TrainingJob:
        """Wait until a job is in one of these states, and return it."""
        wanted = states or FINAL

        async def reached() -> resources_pb2.TrainingJob | None:
            job = await self.job(name)
            return job if job.state in wanted else None

        return await self.until(reached)

    async def run_of(self, name: str, attempt: int = 1) -> tuple[FakeNode, str]:
        """Wait until an attempt's run was started somewhere; return node and run."""
        run = f"runs/{name.rpartition('/')[2]}-{attempt}"

        def found() -> FakeNode | None:
            return next((node for node in self.nodes if run in node.trainer.runs), None)

        return await self.until(found), run

    async def training(self, name: str, attempt: int = 1) -> tuple[FakeNode, str]:
        """Have an attempt's run train; return node and run."""
        node, run = await self.run_of(name, attempt)
        await node.trainer.begin(run)
        await self.in_state(name, State.STATE_RUNNING)
        return node, run

    def tree(self, **files: bytes) -> artifacts_pb2.FileTree:
        """Put a directory into the store."""
        directory = self.directory / f"tree-{time.monotonic_ns()}"
        directory.mkdir()
        for name, content in (files or {"model": b"weights"}).items():
            (directory / name).write_bytes(content)
        tree: FileTree = self.store.put_tree(directory)
        return to_message(tree, artifacts_pb2.FileTree)

    async def until(self, condition: Callable[[], T | Awaitable[T | None] | None]) -> T:
        """Return what a condition returns once that is true."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            assert time.monotonic() < end, "the condition never came true"
            await asyncio.sleep(0.02)

    async def reset(self) -> None:
        """Cancel every job, forget every node and upload."""
        if "gateway" not in self.processes:
            await self.start_gateway()
        self.estimator.faults.clear()
        for upload in self.opened:
            await self.root.AbortUpload(service_pb2.AbortUploadRequest(name=upload))
        self.opened.clear()
        for project in ("default", "many", "other"):
            listing = service_pb2.ListTrainingJobsRequest(parent=f"projects/{project}", page_size=1000)
            for job in (await self.root.ListTrainingJobs(listing)).training_jobs:
                if job.state not in FINAL:
                    await self.cancel(job.name)
        for node in self.nodes:
            await node.stop()
        for node in (await self.root.ListNodes(service_pb2.ListNodesRequest())).nodes:
            await self.root.DeleteNode(service_pb2.DeleteNodeRequest(name=node.name, force=True))
        self.nodes.clear()

    async def stop(self) -> None:
        """End everything."""
        for caller in self.callers:
            await caller.channel.close()
        for node in self.nodes:
            await node.stop()
        for process in self.processes.values():
            await asyncio.to_thread(process.kill)
        await self._server.stop(0)

    def defects(self) -> list[str]:
        """Return what gateways logged as an error."""
        lines = [line for log in self.directory.glob("*.log") for line in log.read_text().splitlines()]
        return [line for line in lines if '"ERROR"' in line or line.startswith("Traceback")]


def request(
    *,
    need: int = 10,
    priority: int = 0,
    retry_limit: int = 3,
    request_id: str = "",
    parent: str = "projects/default",
    dataset: str = "projects/default/datasets/digits",
    base_job: str = "",
    labels: Iterable[tuple[str, str]] = (),
) -> service_pb2.CreateTrainingJobRequest:
    """Return a request for a job that needs some bytes."""
    spec = training_spec_pb2.TrainingSpec(
        task=training_spec_pb2.TASK_IMAGE_CLASSIFICATION,
        dataset=dataset,
        labels={"need": str(need), **dict(labels)},
    )
    if base_job:
        spec.model.job = base_job
    else:
        spec.model.config.update({"model_type": "vit"})
    spec.scheduling.priority = priority
    spec.scheduling.retry_limit = retry_limit
    spec.checkpointing.save_total_limit = 2
    return service_pb2.CreateTrainingJobRequest(parent=parent, spec=spec, request_id=request_id)


async def chunks(
    name: str, data: bytes, start: int = 0, size: int = 500
) -> AsyncIterator[service_pb2.WriteUploadRequest]:
    """Yield the chunks of an upload from an offset on."""
    for offset in range(start, len(data), size):
        yield service_pb2.WriteUploadRequest(name=name, offset=offset, data=data[offset : offset + size])


async def refused(call: Awaitable[Any]) -> ServiceError:
    """Return the error that a call ends in."""
    with contextlib.suppress(StopAsyncIteration):
        try:
            await call
        except ServiceError as error:
            return error
    raise AssertionError("the call was not refused")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
