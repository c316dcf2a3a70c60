"""The trainer's server: `python -m services.trainer.server`."""

import asyncio
import fcntl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeAlias

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from services.common import logs
from services.common.channels import connect
from services.common.lease import Lease
from services.common.pages import page_size
from services.common.server import Registered, run
from services.common.specs import FileEntry
from services.common.store import BlobStore
from services.common.wire import to_message
from services.trainer.artifacts import artifact_file, read_file
from services.trainer.cache import NodeCache
from services.trainer.capabilities import Capabilities
from services.trainer.chats.chats import Chats
from services.trainer.chats.server import ChatMethods
from services.trainer.classification import Classifier
from services.trainer.engines.engine import Engine
from services.trainer.engines.process import ProcessEngine
from services.trainer.models.models import Models
from services.trainer.models.server import ModelMethods
from services.trainer.peers import HardwareNode
from services.trainer.reports import NodeReports
from services.trainer.runs.directory import RunsRoot
from services.trainer.runs.registry import Runs
from services.trainer.runs.shared import Shared
from services.trainer.runs.supervisor import DEFAULT_GRACE_S
from services.trainer.runs.tombstones import Tombstones
from services.trainer.settings import TrainerSettings
from services.trainer.transfers import Transfers
from services.trainer.wire import approval_from_request, event_to_message, run_to_message
from weighbridge.common.v1 import artifacts_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.trainer.v1 import resources_pb2, service_pb2, service_pb2_grpc

NAME = service_pb2.DESCRIPTOR.services_by_name["TrainerService"].full_name
# Generic in its type stub alone.
Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"


class TrainerServicer(ModelMethods, ChatMethods):
    """Answers the gateway."""

    def __init__(
        self,
        runs: Runs,
        shared: Shared,
        reports: NodeReports,
        capabilities: Capabilities,
        classifier: Classifier,
        models: Models,
        chats: Chats,
    ) -> None:
        ModelMethods.__init__(self, models)
        ChatMethods.__init__(self, chats, reports)
        self._runs = runs
        self._shared = shared
        self._reports = reports
        self._capabilities = capabilities
        self._classifier = classifier

    async def StartRun(self, request: service_pb2.StartRunRequest, context: Context) -> resources_pb2.Run:
        """Start an approved run."""
        approval = approval_from_request(request)
        spec, project = request.resolved_spec, request.project
        started = await self._runs.start(request.run, approval, spec, project, self._reports.node_name)
        return run_to_message(started)

    async def GetRun(self, request: service_pb2.GetRunRequest, context: Context) -> resources_pb2.Run:
        """Read a run."""
        return run_to_message(await self._runs.get(request.name))

    async def ListRuns(
        self, request: service_pb2.ListRunsRequest, context: Context
    ) -> service_pb2.ListRunsResponse:
        """List this node's runs."""
        runs, token = await self._runs.page(page_size(request.page_size), request.page_token)
        return service_pb2.ListRunsResponse(runs=map(run_to_message, runs), next_page_token=token)

    async def WatchRun(
        self, request: service_pb2.WatchRunRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchRunResponse]:
        """Send a run's events."""
        async for event in self._runs.watch(request.name, request.cursor):
            yield service_pb2.WatchRunResponse(event=event_to_message(event))

    async def StreamLogs(
        self, request: service_pb2.StreamLogsRequest, context: Context
    ) -> AsyncIterator[service_pb2.StreamLogsResponse]:
        """Send what a run's worker printed."""
        async for lines in self._runs.log_lines(request.name, request.offset, request.follow):
            messages = [to_message(line, resources_pb2.LogLine) for line in lines]
            yield service_pb2.StreamLogsResponse(lines=messages)

    async def CancelRun(self, request: service_pb2.CancelRunRequest, context: Context) -> resources_pb2.Run:
        """Ask a run to stop."""
        grace_s = DEFAULT_GRACE_S
        if request.HasField("grace"):
            grace_s = request.grace.ToTimedelta().total_seconds()
        return run_to_message(await self._runs.cancel(request.name, grace_s))

    async def ListCheckpoints(
        self, request: service_pb2.ListCheckpointsRequest, context: Context
    ) -> service_pb2.ListCheckpointsResponse:
        """List a run's checkpoints."""
        run = await self._runs.get(request.parent)
        messages = [to_message(checkpoint, artifacts_pb2.Checkpoint) for checkpoint in run.checkpoints]
        return service_pb2.ListCheckpointsResponse(checkpoints=messages)

    async def DownloadArtifact(
        self, request: service_pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[service_pb2.DownloadArtifactResponse]:
        """Send a file of a run's artifact."""
        file = artifact_file(await self._runs.get(request.name), request.path)
        response = service_pb2.DownloadArtifactResponse(file=to_message(file, artifacts_pb2.FileEntry))
        async with aclosing(self._read(file, request.offset)) as chunks:
            async for chunk in chunks:
                response.data = chunk
                yield response
                response = service_pb2.DownloadArtifactResponse()
        if response.HasField("file"):
            # An empty rest has a beginning too.
            yield response

    async def DeleteRun(self, request: service_pb2.DeleteRunRequest, context: Context) -> Empty:
        """Remove an ended run."""
        await self._runs.delete(request.name)
        return Empty()

    async def GetCapabilities(
        self, request: service_pb2.GetCapabilitiesRequest, context: Context
    ) -> hardware_pb2.Software:
        """Tell what workers can import."""
        return to_message(await self._capabilities.software(), hardware_pb2.Software)

    async def ClassifyImages(
        self, request: service_pb2.ClassifyImagesRequest, context: Context
    ) -> service_pb2.ClassifyImagesResponse:
        """Classify pictures."""
        found = await self._classifier.classify(request.artifact_digest, request.images, request.top_k)
        messages = [to_message(each, resources_pb2.Classification) for each in found]
        return service_pb2.ClassifyImagesResponse(classifications=messages)

    def _read(self, file: FileEntry, offset: int) -> AsyncGenerator[bytes]:
        return read_file(self._shared.store, self._shared.transfers, file, offset)


async def serve(settings: TrainerSettings) -> None:
    """Serve until told to stop. Runs that are on disk are found before the first call is answered.

    Raises:
        BlockingIOError: another trainer uses the state directory.
    """
    logs.configure(NAME, settings.log_format, settings.log_level)
    # A run is known by the absolute path of its directory, from wherever the service is started.
    settings = settings.model_copy(update={"state_dir": settings.state_dir.absolute()})
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with (settings.state_dir / "lock").open("w") as lock:
        # Two services would each start every run's worker and write every journal.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        async with connect(settings.hardware_target, token=settings.token(), tls=settings.tls_ca) as channel:
            node = HardwareNode(channel, settings.hardware_target)
            shared = _shared(settings, node)
            runs = Runs(RunsRoot(settings.state_dir / "runs"), shared)
            capabilities = _capabilities(settings)
            chats = Chats(settings.state_dir / "chats", shared, settings.chat_command, settings.chat_idle_s)
            reports = NodeReports(node, runs, chats, capabilities, shared.lease, settings)
            classifier = Classifier(shared.cache, settings.classify_command, settings.classify_timeout_s)
            models = Models(runs, settings.secrets_dir)
            servicer = TrainerServicer(runs, shared, reports, capabilities, classifier, models, chats)

            async def stop() -> None:
                await chats.close()
                # In this order: what ends now is told by the service that comes next.
                await runs.close()
                if settings.end_workers:
                    await runs.end_workers(settings.grace_s)

            # Before the first call: a run that is there must never be answered with NOT_FOUND.
            await runs.adopt()
            await chats.end_leftovers()
            add = service_pb2_grpc.add_TrainerServiceServicer_to_server
            background = [reports.go_on, reports.keep_to_lease]
            await run(settings, [Registered(add, servicer, NAME)], background=background, on_stop=stop)


def _shared(settings: TrainerSettings, node: HardwareNode) -> Shared:
    store, transfers = BlobStore(settings.store_url), Transfers()
    return Shared(
        engine=_engine(settings),
        node=node,
        lease=Lease(settings.state_dir / "lease.json"),
        store=store,
        transfers=transfers,
        cache=NodeCache(settings.state_dir / "cache", store, transfers, settings.cache_bytes),
        tombstones=Tombstones(settings.state_dir / "tombstones"),
        model_root=settings.model_root,
        secrets_dir=settings.secrets_dir,
    )


def _engine(settings: TrainerSettings) -> Engine:
    if settings.engine == "process":
        return ProcessEngine(settings.worker_command or (sys.executable, "-m", "services.trainer.worker"))
    # Where it is not asked for, its library need not be there.
    from services.trainer.engines.docker import DockerEngine

    return DockerEngine(settings)


def _capabilities(settings: TrainerSettings) -> Capabilities:
    remembered = settings.state_dir / "capabilities.json"
    if settings.engine == "process":
        return Capabilities(settings.probed_packages, remembered)
    command = (sys.executable, "-m", "services.trainer.engines.imageprobe", settings.docker_image)
    return Capabilities(settings.probed_packages, remembered, command)


if __name__ == "__main__":
    asyncio.run(serve(TrainerSettings()))
