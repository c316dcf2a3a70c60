"""Models of the hub in the nodes' caches: brought there ahead of the jobs that need them, listed, removed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from weighbridge._link import Link
from weighbridge._pages import PAGE_SIZE, listed
from weighbridge._upload import Progress
from weighbridge.exceptions import NotFound, Unavailable
from weighbridge.gateway.v1.resources_pb2 import FleetNodeState, NodeModel
from weighbridge.gateway.v1.service_pb2 import (
    DeleteModelRequest,
    ListModelsRequest,
    ListNodesRequest,
    PullModelRequest,
)
from weighbridge.names import node_name, project_name

# A cache of many models is read from the disk, and removing one of many files takes a while.
_TIMEOUT_S = 300.0
_EVERY = "-"
_AWAY = (FleetNodeState.FLEET_NODE_STATE_UNREACHABLE, FleetNodeState.FLEET_NODE_STATE_LOST)


@dataclass(frozen=True)
class CachedModels:
    """What the nodes have."""

    models: list[NodeModel]
    """Ordered by node, repository and revision."""
    unreachable: list[str]
    """Names of nodes that could not be asked."""


class Models:
    """The nodes' caches of the hub. A node is given by its short or full name; None stands for every node."""

    def __init__(self, link: Link, project: str) -> None:
        self._link = link
        self._project = project

    def pull(
        self,
        repository: str,
        *,
        revision: str = "",
        node: str | None = None,
        token_secret: str = "",
        progress: Progress | None = None,
    ) -> Iterator[NodeModel]:
        """Bring a model of the hub onto one node after the other, and yield it as each has it.

        It is pinned to the commit that `revision` (a branch, a tag or a commit; empty: `main`) is now. A
        download that is left goes on with the next call. `token_secret` names a secret of the project that
        holds a token for the hub. `progress` is told bytes done and bytes in all, anew for each node.

        Raises:
            InvalidModel: there is no such model, it needs a token, or it is not safe to read.
            InsufficientDisk: the node has no room for it; nothing was fetched.
            Unavailable: the node, or the hub, cannot be reached.
        """
        for name in [node_name(node)] if node is not None else self._reachable():
            request = PullModelRequest(
                parent=name,
                repository=repository,
                revision=revision,
                project=project_name(self._project),
                token_secret=token_secret,
            )
            pulled = self._pull(request, progress or _ignore)
            yield pulled
            # A branch may move in between: every node gets the same.
            revision = pulled.model.revision

    def list(self, node: str | None = None) -> CachedModels:
        """Return the models that nodes have and the runs that train on them. Raises NotFound, Unavailable."""
        parent = node_name(node if node is not None else _EVERY)
        models: list[NodeModel] = []
        unreachable: list[str] = []
        token = ""
        while True:
            request = ListModelsRequest(parent=parent, page_size=PAGE_SIZE, page_token=token)
            page = self._link.call(self._link.fleet.ListModels, request, _TIMEOUT_S)
            models += page.models
            unreachable += [name for name in page.unreachable if name not in unreachable]
            token = page.next_page_token
            if not token:
                return CachedModels(models, unreachable)

    def delete(self, repository: str, *, revision: str = "", node: str | None = None) -> Iterator[NodeModel]:
        """Remove a model from every node that has it, and yield what was removed.

        `revision` is a commit or the beginning of one; empty: every revision.

        Raises:
            NotFound: no node has it.
            InUse: a run trains on it there; what was yielded before is gone.
        """
        found = self.list(node).models
        having = [
            each.node
            for each in found
            if each.model.repository == repository and each.model.revision.startswith(revision)
        ]
        if not having:
            what = f"{repository}@{revision}" if revision else repository
            raise NotFound("NOT_FOUND", f"no node has {what} in its cache", {"resource": what})
        for name in dict.fromkeys(having):
            request = DeleteModelRequest(parent=name, repository=repository, revision=revision)
            yield from self._link.call(self._link.fleet.DeleteModel, request, _TIMEOUT_S).models

    def _pull(self, request: PullModelRequest, progress: Progress) -> NodeModel:
        for response in self._link.stream(self._link.fleet.PullModel, request):
            if response.HasField("model"):
                return response.model
            if response.progress.total_bytes:
                progress(response.progress.done_bytes, response.progress.total_bytes)
        raise Unavailable("UNAVAILABLE", f"the download on {request.parent} broke off: the same call goes on")

    def _reachable(self) -> Sequence[str]:
        nodes = listed(
            lambda token: self._link.call(
                self._link.fleet.ListNodes, ListNodesRequest(page_size=PAGE_SIZE, page_token=token)
            ),
            lambda page: page.nodes,
            None,
        )
        names = [node.name for node in nodes if node.state not in _AWAY]
        if not names:
            raise Unavailable("UNAVAILABLE", "no node can be reached: `weighbridge nodes` shows them")
        return names


def _ignore(done: int, total: int) -> None:
    pass
