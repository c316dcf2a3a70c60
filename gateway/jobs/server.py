"""The methods of TrainingService that are about jobs."""

import hashlib
from collections.abc import AsyncIterator

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from gateway.dispatch.peers import Trainers
from gateway.jobs.artifacts import find_file, read_file
from gateway.jobs.deletion import delete_runs
from gateway.jobs.jobs import Jobs, NewJob
from gateway.jobs.trainers import classifiers, trainer_of
from gateway.jobs.watching import Watch
from gateway.jobs.wire import checked_message, job_message, job_states, news_message
from gateway.ledger.engine import Ledger
from gateway.packed import Packed
from gateway.peers import Peers, ask
from gateway.settings import GatewaySettings
from gateway.weighing.check import Check
from gateway.weighing.peers import Estimator
from services.common.context import spawn
from services.common.errors import PeerUnavailable
from services.common.interception import Context
from services.common.names import parse_project
from services.common.rpc import from_rpc_error
from services.common.spec_wire import spec_from_message
from services.common.store import BlobStore
from services.common.wire import to_message
from weighbridge.common.v1 import artifacts_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2, service_pb2_grpc
from weighbridge.trainer.v1 import service_pb2 as trainer_pb2


class JobMethods(service_pb2_grpc.TrainingServiceServicer):
    """Jobs, from the check to the artifact."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, peers: Peers, store: BlobStore) -> None:
        self._settings = settings
        self._ledger = ledger
        self._peers = peers
        self._store = store
        self._jobs = Jobs(ledger, settings.sweep_delay_s)
        self._check = Check(ledger, Estimator(peers))
        self._later: set[object] = set()

    async def CheckTrainingJob(
        self, request: service_pb2.CheckTrainingJobRequest, context: Context
    ) -> service_pb2.CheckTrainingJobResponse:
        """Weigh a spec."""
        project, spec = parse_project(request.parent), spec_from_message(request.spec)
        packed = Packed(request.spec.SerializeToString())
        return checked_message(await self._check.check(project, spec, packed))

    async def CreateTrainingJob(
        self, request: service_pb2.CreateTrainingJobRequest, context: Context
    ) -> resources_pb2.TrainingJob:
        """Write a job down."""
        new = NewJob(
            project=parse_project(request.parent),
            display_name=request.display_name,
            request_id=request.request_id,
            request_sha256=hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest(),
            spec=spec_from_message(request.spec),
            message=Packed(request.spec.SerializeToString()),
        )
        return job_message(await self._jobs.create(new))

    async def GetTrainingJob(
        self, request: service_pb2.GetTrainingJobRequest, context: Context
    ) -> resources_pb2.TrainingJob:
        """Read a job."""
        return job_message(await self._jobs.get(request.name))

    async def ListTrainingJobs(
        self, request: service_pb2.ListTrainingJobsRequest, context: Context
    ) -> service_pb2.ListTrainingJobsResponse:
        """List jobs."""
        project, labels = parse_project(request.parent), dict(request.labels)
        views, token = await self._jobs.page(
            project, job_states(request), labels, request.page_size, request.page_token
        )
        listed = [job_message(view, brief=True) for view in views]
        return service_pb2.ListTrainingJobsResponse(training_jobs=listed, next_page_token=token)

    async def WatchTrainingJob(
        self, request: service_pb2.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchTrainingJobResponse]:
        """Follow a job."""
        watch = Watch(self._ledger, request.name, request.cursor, self._settings.tick_s)
        async for news in watch.news():
            yield service_pb2.WatchTrainingJobResponse(event=news_message(news))

    async def CancelTrainingJob(
        self, request: service_pb2.CancelTrainingJobRequest, context: Context
    ) -> resources_pb2.TrainingJob:
        """Ask a job to stop."""
        return job_message(await self._jobs.cancel(request.name))

    async def ResumeTrainingJob(
        self, request: service_pb2.ResumeTrainingJobRequest, context: Context
    ) -> resources_pb2.TrainingJob:
        """Queue a job again."""
        return job_message(await self._jobs.resume(request.name))

    async def DeleteTrainingJob(
        self, request: service_pb2.DeleteTrainingJobRequest, context: Context
    ) -> Empty:
        """Remove a job."""
        view = await self._jobs.delete(request.name)
        # The job is gone whether its nodes answer or not: nobody waits for them.
        task = spawn(delete_runs(self._ledger, Trainers(self._peers), view.attempts), "delete runs")
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return Empty()

    async def ListTrainingCheckpoints(
        self, request: service_pb2.ListTrainingCheckpointsRequest, context: Context
    ) -> service_pb2.ListTrainingCheckpointsResponse:
        """List committed checkpoints."""
        found = await self._jobs.checkpoints(request.parent)
        listed = [to_message(each, artifacts_pb2.Checkpoint) for each in found]
        return service_pb2.ListTrainingCheckpointsResponse(checkpoints=listed)

    async def StreamTrainingLogs(
        self, request: service_pb2.StreamTrainingLogsRequest, context: Context
    ) -> AsyncIterator[service_pb2.StreamTrainingLogsResponse]:
        """Pass on what an attempt's process printed."""
        run, address = await trainer_of(self._ledger, request.name, request.attempt)
        asked = trainer_pb2.StreamLogsRequest(name=run, offset=request.offset, follow=request.follow)
        try:
            async for response in self._peers.trainer(address).StreamLogs(asked):
                yield service_pb2.StreamTrainingLogsResponse(lines=response.lines)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address) from error

    async def DownloadArtifact(
        self, request: service_pb2.DownloadArtifactRequest, context: Context
    ) -> AsyncIterator[service_pb2.DownloadArtifactResponse]:
        """Stream a file of an artifact."""
        job = (await self._jobs.get(request.name)).job
        entry = await find_file(self._store, job, request.path, request.offset)
        yield service_pb2.DownloadArtifactResponse(file=to_message(entry, artifacts_pb2.FileEntry))
        async for data in read_file(self._store, entry, request.offset):
            yield service_pb2.DownloadArtifactResponse(data=data)

    async def ClassifyImages(
        self, request: service_pb2.ClassifyImagesRequest, context: Context
    ) -> service_pb2.ClassifyImagesResponse:
        """Pass pictures on to a trainer."""
        digest, addresses = await classifiers(self._ledger, request.name)
        asked = trainer_pb2.ClassifyImagesRequest(
            artifact_digest=digest, images=request.images, top_k=request.top_k
        )
        for address in addresses:
            stub = self._peers.trainer(address)
            try:
                answer = await ask(stub.ClassifyImages, asked, address, self._peers.estimate_timeout_s)
            except PeerUnavailable:
                # Any trainer can fetch the artifact; the one that made it only has it already.
                continue
            return service_pb2.ClassifyImagesResponse(classifications=answer.classifications)
        raise PeerUnavailable("every trainer")
