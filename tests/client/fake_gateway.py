"""FakeGateway: both of the gateway's contracts over a real socket, with what a test wants to go wrong."""

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2
from weighbridge.following import FINAL
from weighbridge.gateway.v1 import resources_pb2 as gateway
from weighbridge.gateway.v1 import service_pb2 as api
from weighbridge.gateway.v1 import service_pb2_grpc
from weighbridge.hardware.v1 import resources_pb2 as hardware
from weighbridge.hardware.v1 import service_pb2 as hardware_api
from weighbridge.trainer.v1 import resources_pb2 as trainer

TOKEN = "the-token"
JOB = "projects/default/trainingJobs/t1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
State = gateway.TrainingJob.State
Context: TypeAlias = "grpc.ServicerContext"


@dataclass
class World:
    """What the gateway keeps; it outlives a restart of the server."""

    datasets: dict[str, gateway.Dataset] = field(default_factory=dict)
    uploads: dict[str, gateway.Upload] = field(default_factory=dict)
    received: dict[str, bytearray] = field(default_factory=dict)
    job: gateway.TrainingJob = field(
        default_factory=lambda: gateway.TrainingJob(name=JOB, state=State.STATE_PENDING)
    )
    events: list[gateway.JobEvent] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    nodes: list[gateway.FleetNode] = field(default_factory=list)
    admissions: list[gateway.Admission] = field(default_factory=list)
    outcomes: list[hardware.Outcome] = field(default_factory=list)
    models: list[gateway.NodeModel] = field(default_factory=list)
    unreachable: list[str] = field(default_factory=list)
    """Nodes whose models cannot be listed."""
    pull_breaks: bool = False
    """Whether a download ends half-way, as if all were told."""
    check: api.CheckTrainingJobResponse = field(default_factory=api.CheckTrainingJobResponse)
    requests: list[Message] = field(default_factory=list)
    """Every request, but chunks."""
    errors: dict[str, "Refusal"] = field(default_factory=dict)
    """Method to what it answers instead."""
    break_after_chunks: list[int] = field(default_factory=list)
    """Each stream of chunks takes the first of these, and breaks off after so many."""
    break_after_bytes: list[int] = field(default_factory=list)
    """The same for downloads."""
    break_after_events: list[int] = field(default_factory=list)
    """The same for watches."""

    watches_end: bool = False
    """Whether a watch ends after the events that there are, before the job does."""

    def sent(self, kind: type[Message]) -> list[Any]:
        """Return the requests of a kind."""
        return [request for request in self.requests if isinstance(request, kind)]


@dataclass
class Refusal:
    """An error as the platform sends it."""

    code: grpc.StatusCode
    reason: str
    message: str = "no"
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None

    def abort(self, context: Context) -> NoReturn:
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain="weighbridge", metadata=self.metadata)
        ]
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for name, text in self.violations.items():
                bad.field_violations.add(field=name, description=text)
            details.append(bad)
        if self.retry_after_s is not None:
            delay = Duration()
            delay.FromNanoseconds(round(self.retry_after_s * 1e9))
            details.append(error_details_pb2.RetryInfo(retry_delay=delay))
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(self.code, self.message)


def not_found(resource: str) -> Refusal:
    return Refusal(
        grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{resource} does not exist", {"resource": resource}
    )


def node_model(node: str, repository: str, *runs: str, revision: str = "") -> gateway.NodeModel:
    """Return a model in a node's cache."""
    model = trainer.CachedModel(
        repository=repository, revision=revision or COMMIT, size_bytes=4 << 20, file_count=3, runs=runs
    )
    return gateway.NodeModel(node=node, model=model)


class _Base:
    def __init__(self, world: World) -> None:
        self.world = world

    def enter(self, context: Context, request: Message | None = None) -> None:
        """Check the token and answer with the error that the test wants."""
        if ("authorization", f"Bearer {TOKEN}") not in list(context.invocation_metadata()):
            Refusal(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", "the call needs a valid token").abort(
                context
            )
        if request is not None:
            self.world.requests.append(request)
        method = type(request).__name__.removesuffix("Request") if request is not None else "WriteUpload"
        if method in self.world.errors:
            self.world.errors[method].abort(context)


def _break(context: Context) -> NoReturn:
    context.abort(grpc.StatusCode.UNAVAILABLE, "broken off")


def _page(items: list[Any], request: Any) -> tuple[list[Any], str]:
    start = int(request.page_token or 0)
    end = start + request.page_size
    return items[start:end], str(end) if end < len(items) else ""


class FakeTraining(_Base, service_pb2_grpc.TrainingServiceServicer):
    """Jobs, data sets and artifacts."""

    def CheckTrainingJob(
        self, request: api.CheckTrainingJobRequest, context: Context
    ) -> api.CheckTrainingJobResponse:
        self.enter(context, request)
        return self.world.check

    def CreateTrainingJob(
        self, request: api.CreateTrainingJobRequest, context: Context
    ) -> gateway.TrainingJob:
        self.enter(context, request)
        self.world.job.spec.CopyFrom(request.spec)
        return self.world.job

    def GetTrainingJob(self, request: api.GetTrainingJobRequest, context: Context) -> gateway.TrainingJob:
        self.enter(context, request)
        if request.name != self.world.job.name:
            not_found(request.name).abort(context)
        return self.world.job

    def ListTrainingJobs(
        self, request: api.ListTrainingJobsRequest, context: Context
    ) -> api.ListTrainingJobsResponse:
        self.enter(context, request)
        jobs = [self.world.job] if not request.states or self.world.job.state in request.states else []
        return api.ListTrainingJobsResponse(training_jobs=jobs)

    def WatchTrainingJob(
        self, request: api.WatchTrainingJobRequest, context: Context
    ) -> Iterator[api.WatchTrainingJobResponse]:
        self.enter(context, request)
        limit = self.world.break_after_events.pop(0) if self.world.break_after_events else None
        start = int(request.cursor or 0)
        # As the gateway does: the job as it is now, then what was, and what is to come.
        job = self._job()
        snapshot = gateway.JobEvent(cursor=request.cursor, job=job, attempt=len(job.attempts))
        yield api.WatchTrainingJobResponse(event=snapshot)
        while context.is_active():
            for number, event in enumerate(self.world.events[start:]):
                if number == limit:
                    _break(context)
                yield api.WatchTrainingJobResponse(event=event)
            start = len(self.world.events)
            if self.world.watches_end or self._job().state in FINAL:
                return
            time.sleep(0.01)

    def _job(self) -> gateway.TrainingJob:
        seen = [event.job for event in self.world.events if event.HasField("job")]
        return seen[-1] if seen else self.world.job

    def CancelTrainingJob(
        self, request: api.CancelTrainingJobRequest, context: Context
    ) -> gateway.TrainingJob:
        self.enter(context, request)
        self.world.job.state = State.STATE_CANCELLING
        return self.world.job

    def ResumeTrainingJob(
        self, request: api.ResumeTrainingJobRequest, context: Context
    ) -> gateway.TrainingJob:
        self.enter(context, request)
        self.world.job.state = State.STATE_QUEUED
        return self.world.job

    def DeleteTrainingJob(self, request: api.DeleteTrainingJobRequest, context: Context) -> Empty:
        self.enter(context, request)
        return Empty()

    def ListTrainingCheckpoints(
        self, request: api.ListTrainingCheckpointsRequest, context: Context
    ) -> api.ListTrainingCheckpointsResponse:
        self.enter(context, request)
        return api.ListTrainingCheckpointsResponse(
            checkpoints=[artifacts_pb2.Checkpoint(step=40, size_bytes=1 << 20, metrics={"accuracy": 0.9})]
        )

    def StreamTrainingLogs(
        self, request: api.StreamTrainingLogsRequest, context: Context
    ) -> Iterator[api.StreamTrainingLogsResponse]:
        self.enter(context, request)
        offset = 0
        for text in self.world.lines:
            offset += len(text) + 1
            if offset > request.offset:
                line = trainer.LogLine(offset=offset, text=text)
                yield api.StreamTrainingLogsResponse(lines=[line])
                if self.world.break_after_events and self.world.break_after_events.pop(0) == 0:
                    _break(context)

    def DownloadArtifact(
        self, request: api.DownloadArtifactRequest, context: Context
    ) -> Iterator[api.DownloadArtifactResponse]:
        self.enter(context, request)
        limit = self.world.break_after_bytes.pop(0) if self.world.break_after_bytes else None
        data = self.world.files[request.path]
        entry = next(file for file in self.world.job.artifact.files if file.path == request.path)
        yield api.DownloadArtifactResponse(file=entry)
        for start in range(request.offset, len(data), 1000):
            if limit is not None and start - request.offset >= limit:
                _break(context)
            yield api.DownloadArtifactResponse(data=data[start : start + 1000])

    def ClassifyImages(
        self, request: api.ClassifyImagesRequest, context: Context
    ) -> api.ClassifyImagesResponse:
        self.enter(context, request)
        scores = [
            trainer.LabelScore(label="7", probability=0.9),
            trainer.LabelScore(label="1", probability=0.06),
        ]
        found = [trainer.Classification(scores=scores[: request.top_k]) for _ in request.images]
        return api.ClassifyImagesResponse(classifications=found)

    def CreateUpload(self, request: api.CreateUploadRequest, context: Context) -> gateway.Upload:
        self.enter(context, request)
        dataset = f"{request.parent}/datasets/{request.dataset_id}"
        if dataset in self.world.datasets:
            Refusal(grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS", f"{dataset} exists already").abort(
                context
            )
        name = f"{request.parent}/uploads/u{len(self.world.uploads)}"
        upload = gateway.Upload(
            name=name, dataset=dataset, size_bytes=request.size_bytes, file_name=request.file_name
        )
        self.world.uploads[name], self.world.received[name] = upload, bytearray()
        return upload

    def WriteUpload(
        self, request_iterator: Iterator[api.WriteUploadRequest], context: Context
    ) -> gateway.Upload:
        self.enter(context)
        limit = self.world.break_after_chunks.pop(0) if self.world.break_after_chunks else None
        upload = None
        for number, chunk in enumerate(request_iterator):
            if number == limit:
                _break(context)
            upload = self.world.uploads[chunk.name]
            if chunk.offset != upload.committed_size:
                Refusal(grpc.StatusCode.OUT_OF_RANGE, "WRONG_OFFSET").abort(context)
            self.world.received[chunk.name] += chunk.data
            upload.committed_size = len(self.world.received[chunk.name])
        assert upload is not None
        return upload

    def GetUpload(self, request: api.GetUploadRequest, context: Context) -> gateway.Upload:
        self.enter(context, request)
        if request.name not in self.world.uploads:
            not_found(request.name).abort(context)
        return self.world.uploads[request.name]

    def FinishUpload(self, request: api.FinishUploadRequest, context: Context) -> gateway.Dataset:
        self.enter(context, request)
        upload, data = self.world.uploads[request.name], bytes(self.world.received[request.name])
        actual = hashlib.sha256(data).hexdigest()
        if actual != request.sha256:
            Refusal(grpc.StatusCode.INVALID_ARGUMENT, "DIGEST_MISMATCH", "other bytes").abort(context)
        summary = resolved_spec_pb2.DatasetSummary(
            name=upload.dataset, digest=f"sha256:{actual}", size_bytes=len(data), example_count=3
        )
        self.world.datasets[upload.dataset] = gateway.Dataset(name=upload.dataset, summary=summary)
        return self.world.datasets[upload.dataset]

    def AbortUpload(self, request: api.AbortUploadRequest, context: Context) -> Empty:
        self.enter(context, request)
        self.world.uploads.pop(request.name, None)
        return Empty()

    def ImportDataset(self, request: api.ImportDatasetRequest, context: Context) -> gateway.Dataset:
        self.enter(context, request)
        return gateway.Dataset(name=f"{request.parent}/datasets/{request.dataset_id}")

    def GetDataset(self, request: api.GetDatasetRequest, context: Context) -> gateway.Dataset:
        self.enter(context, request)
        if request.name not in self.world.datasets:
            not_found(request.name).abort(context)
        return self.world.datasets[request.name]

    def ListDatasets(self, request: api.ListDatasetsRequest, context: Context) -> api.ListDatasetsResponse:
        self.enter(context, request)
        datasets, token = _page(list(self.world.datasets.values()), request)
        return api.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    def DeleteDataset(self, request: api.DeleteDatasetRequest, context: Context) -> Empty:
        self.enter(context, request)
        if self.world.datasets.pop(request.name, None) is None:
            not_found(request.name).abort(context)
        return Empty()


class FakeFleet(_Base, service_pb2_grpc.FleetServiceServicer):
    """Nodes and the audit trail; what the client does not call answers UNIMPLEMENTED."""

    def ListNodes(self, request: api.ListNodesRequest, context: Context) -> api.ListNodesResponse:
        self.enter(context, request)
        return api.ListNodesResponse(nodes=self.world.nodes)

    def WatchFleet(
        self, request: api.WatchFleetRequest, context: Context
    ) -> Iterator[api.WatchFleetResponse]:
        self.enter(context, request)
        for node in self.world.nodes:
            yield api.WatchFleetResponse(node=node)

    def CordonNode(self, request: api.CordonNodeRequest, context: Context) -> gateway.FleetNode:
        self.enter(context, request)
        return gateway.FleetNode(name=request.name, cordoned=True)

    def UncordonNode(self, request: api.UncordonNodeRequest, context: Context) -> gateway.FleetNode:
        self.enter(context, request)
        return gateway.FleetNode(name=request.name)

    def DrainNode(self, request: api.DrainNodeRequest, context: Context) -> gateway.FleetNode:
        self.enter(context, request)
        return gateway.FleetNode(name=request.name, state=gateway.FLEET_NODE_STATE_DRAINING)

    def DeleteNode(self, request: api.DeleteNodeRequest, context: Context) -> Empty:
        self.enter(context, request)
        return Empty()

    def PullModel(self, request: api.PullModelRequest, context: Context) -> Iterator[api.PullModelResponse]:
        self.enter(context, request)
        yield api.PullModelResponse(progress=trainer.PullProgress())
        for done in (0, 2 << 20, 4 << 20):
            progress = trainer.PullProgress(revision=COMMIT, done_bytes=done, total_bytes=4 << 20)
            yield api.PullModelResponse(progress=progress)
        if not self.world.pull_breaks:
            yield api.PullModelResponse(model=node_model(request.parent, request.repository))

    def ListModels(self, request: api.ListModelsRequest, context: Context) -> api.ListModelsResponse:
        self.enter(context, request)
        nodes = [each.node for each in self.world.models] if request.parent == "nodes/-" else [request.parent]
        found = [each for each in self.world.models if each.node in nodes]
        models, token = _page(found, request)
        return api.ListModelsResponse(
            models=models, next_page_token=token, unreachable=self.world.unreachable
        )

    def DeleteModel(self, request: api.DeleteModelRequest, context: Context) -> api.DeleteModelResponse:
        self.enter(context, request)
        gone = [
            each
            for each in self.world.models
            if (each.node, each.model.repository) == (request.parent, request.repository)
        ]
        if gone[0].model.runs:
            Refusal(grpc.StatusCode.FAILED_PRECONDITION, "IN_USE", "still used").abort(context)
        self.world.models = [each for each in self.world.models if each not in gone]
        return api.DeleteModelResponse(models=gone, freed_bytes=sum(each.model.size_bytes for each in gone))

    def ListAdmissions(
        self, request: api.ListAdmissionsRequest, context: Context
    ) -> api.ListAdmissionsResponse:
        self.enter(context, request)
        admissions, token = _page(self.world.admissions, request)
        return api.ListAdmissionsResponse(admissions=admissions, next_page_token=token)

    def ListOutcomes(
        self, request: hardware_api.ListOutcomesRequest, context: Context
    ) -> hardware_api.ListOutcomesResponse:
        self.enter(context, request)
        outcomes, token = _page(self.world.outcomes, request)
        return hardware_api.ListOutcomesResponse(outcomes=outcomes, next_page_token=token)


def _serving() -> HealthServicer:
    health = HealthServicer()
    health.set("weighbridge.gateway.v1.TrainingService", health_pb2.HealthCheckResponse.SERVING)
    return health


class FakeGateway:
    """A server of one world, which can be killed and started again on its port."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.port = 0
        self._server: grpc.Server | None = None
        self.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_TrainingServiceServicer_to_server(FakeTraining(self.world), server)
        service_pb2_grpc.add_FleetServiceServicer_to_server(FakeFleet(self.world), server)  # type: ignore[abstract]
        health_pb2_grpc.add_HealthServicer_to_server(_serving(), server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server

    def kill(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def kill_for(self, seconds: float) -> None:
        """Cut every connection and come back later."""
        self.kill()
        threading.Timer(seconds, self.start).start()
