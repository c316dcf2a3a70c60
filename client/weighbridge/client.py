"""The client: everything that the command line can do, typed and synchronous.

Answers are the contract's own messages: they are typed already, and every field's comment is in their stubs.
Only a job is more than its message: see `Job`.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from weighbridge import config, following, spec_file
from weighbridge._link import Link
from weighbridge._pages import PAGE_SIZE, listed
from weighbridge._predict import Classifications, Image
from weighbridge.chat import Chat, ChatOptions
from weighbridge.common.v1.training_spec_pb2 import TrainingSpec
from weighbridge.datasets import Datasets
from weighbridge.gateway.v1.resources_pb2 import Admission, FleetNode
from weighbridge.gateway.v1.service_pb2 import (
    CheckTrainingJobRequest,
    CheckTrainingJobResponse,
    CordonNodeRequest,
    CreateTrainingJobRequest,
    DeleteNodeRequest,
    DrainNodeRequest,
    ListAdmissionsRequest,
    ListNodesRequest,
    UncordonNodeRequest,
)
from weighbridge.hardware.v1.resources_pb2 import Outcome
from weighbridge.hardware.v1.service_pb2 import ListOutcomesRequest
from weighbridge.jobs import Job, Jobs
from weighbridge.models import Models
from weighbridge.names import job_name, node_name, project_name

Spec: TypeAlias = TrainingSpec | Mapping[str, Any] | str | Path
"""A spec: a message, a mapping with the keys of a spec file, or the path of one."""

# Resolving a spec imports the model libraries; on a busy laptop that takes a while.
CHECK_TIMEOUT_S = 300.0


class Client:
    """A caller of one platform. Threads may share it; `with` closes it.

    What is not given comes from the environment, then from what `weighbridge up` wrote: see `config`.
    """

    def __init__(
        self, target: str | None = None, token: str | None = None, project: str | None = None
    ) -> None:
        """Make a client; the connection is made with the first call.

        Raises:
            NotConfigured: no target or no token is known, or the token would leave this machine in plaintext.
        """
        settings = config.resolve(target, token, project)
        self.target = settings.target
        """`host:port` of the gateway."""
        self.project = settings.project
        """Completes short names."""
        self._link = Link(settings)
        self.jobs = Jobs(self._link, self.project)
        """The project's training jobs."""
        self.datasets = Datasets(self._link, self.project)
        """The project's data sets."""
        self.models = Models(self._link, self.project)
        """The models of the hub in the nodes' caches."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def check(self, spec: Spec) -> CheckTrainingJobResponse:
        """Weigh a spec and create nothing. A job that fits nowhere is an answer, not an error.

        Raises:
            SpecError: the spec cannot be understood.
            InvalidSpec, InvalidModel: the platform refuses it.
        """
        request = CheckTrainingJobRequest(parent=project_name(self.project), spec=self.spec(spec))
        return self._link.call(self._link.training.CheckTrainingJob, request, CHECK_TIMEOUT_S)

    def train(self, spec: Spec, *, display_name: str = "", request_id: str | None = None) -> Job:
        """Create a job and return it at once; `wait` and `watch` follow it.

        A repeat with the same `request_id` returns the first job. Without one, each call makes its own, so
        that a call that is retried on the way creates one job.

        Raises:
            SpecError: the spec cannot be understood.
            RequestIdReused: the request id was used with another spec.
        """
        request = CreateTrainingJobRequest(
            parent=project_name(self.project),
            spec=self.spec(spec),
            display_name=display_name,
            # Retries below this line carry the same id: the platform may have carried the first try out.
            request_id=request_id if request_id is not None else str(uuid.uuid4()),
        )
        return Job(self.jobs, self._link.call(self._link.training.CreateTrainingJob, request))

    def spec(self, spec: Spec) -> TrainingSpec:
        """Return the message of a spec. Raises SpecError where it cannot be understood."""
        if isinstance(spec, TrainingSpec):
            return spec
        if isinstance(spec, Mapping):
            return spec_file.parse(spec, self.project)
        return spec_file.load(spec, self.project)

    def predict(self, job: str | Job, images: Iterable[Image], top_k: int = 3) -> Classifications:
        """Classify pictures with a finished job's model; see `Jobs.predict`."""
        return self.jobs.predict(job.name if isinstance(job, Job) else job, images, top_k)

    def chat(self, job: str | Job, options: ChatOptions | None = None) -> Chat:
        """Return a chat with the language model that a job made; `with` opens it. See `Chat`."""
        return self.jobs.chat(job.name if isinstance(job, Job) else job, options)

    def nodes(self) -> list[FleetNode]:
        """Return the nodes, ordered by name."""
        return list(
            listed(
                lambda token: self._link.call(
                    self._link.fleet.ListNodes, ListNodesRequest(page_size=PAGE_SIZE, page_token=token)
                ),
                lambda page: page.nodes,
                None,
            )
        )

    def watch_nodes(self) -> Iterator[FleetNode]:
        """Yield every node, and again each that changed, until the caller leaves."""
        return following.watch_nodes(self._link)

    def cordon(self, node: str) -> FleetNode:
        """Send no new jobs to a node, and return it."""
        return self._link.call(self._link.fleet.CordonNode, CordonNodeRequest(name=node_name(node)))

    def uncordon(self, node: str) -> FleetNode:
        """Send jobs to a node again, and return it."""
        return self._link.call(self._link.fleet.UncordonNode, UncordonNodeRequest(name=node_name(node)))

    def drain(self, node: str) -> FleetNode:
        """Cordon a node and move its jobs away, each from its last checkpoint; return the node."""
        return self._link.call(self._link.fleet.DrainNode, DrainNodeRequest(name=node_name(node)))

    def delete_node(self, node: str, *, force: bool = False) -> None:
        """Forget a node without runs.

        `force` declares it lost although runs are placed on it: only when the machine is certain to be off.

        Raises:
            InUse: runs are placed on it.
        """
        self._link.call(self._link.fleet.DeleteNode, DeleteNodeRequest(name=node_name(node), force=force))

    def admissions(
        self,
        *,
        job: str = "",
        since: datetime | None = None,
        all_projects: bool = False,
        limit: int | None = None,
    ) -> Iterator[Admission]:
        """Yield the audit trail, newest first: who asked for what, what was decided, and why."""

        def request(token: str) -> ListAdmissionsRequest:
            return ListAdmissionsRequest(
                parent=project_name("-" if all_projects else self.project),
                page_size=PAGE_SIZE,
                page_token=token,
                since=_timestamp(since),
                job=job_name(self.project, job) if job else "",
            )

        return listed(
            lambda token: self._link.call(self._link.fleet.ListAdmissions, request(token)),
            lambda page: page.admissions,
            limit,
        )

    def outcomes(self, *, since: datetime | None = None, limit: int | None = None) -> Iterator[Outcome]:
        """Yield predicted peaks of memory beside measured ones, newest first."""
        return listed(
            lambda token: self._link.call(
                self._link.fleet.ListOutcomes,
                ListOutcomesRequest(page_size=PAGE_SIZE, page_token=token, since=_timestamp(since)),
            ),
            lambda page: page.outcomes,
            limit,
        )


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
