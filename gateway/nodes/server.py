"""The methods of FleetService that are about nodes, what fits them, and what was decided."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.audit.trail import Trail
from gateway.ledger.engine import Ledger
from gateway.nodes.fleet import Fleet
from gateway.nodes.recent import RecentNodes
from gateway.nodes.wire import admission_message, node_message, outcome_message, report_of
from gateway.packed import Packed
from gateway.peers import Peers, ask
from gateway.settings import GatewaySettings
from gateway.weighing.check import Check
from gateway.weighing.peers import Estimator
from services.common.interception import Context
from services.common.names import parse_project
from services.common.spec_wire import spec_from_message
from services.common.wire import to_message
from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2, service_pb2_grpc
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.hardware.v1 import service_pb2 as hardware_service_pb2


class NodeMethods(service_pb2_grpc.FleetServiceServicer):
    """Nodes, what fits them, and the audit trail."""

    def __init__(self, settings: GatewaySettings, ledger: Ledger, peers: Peers) -> None:
        self._recent = RecentNodes(ledger, settings.tick_s)
        self._peers = peers
        self._fleet = Fleet(settings, ledger)
        self._trail = Trail(ledger)
        self._check = Check(ledger, Estimator(peers))

    async def RegisterNode(
        self, request: service_pb2.RegisterNodeRequest, context: Context
    ) -> service_pb2.RegisterNodeResponse:
        """Enter a node."""
        told = await self._fleet.register(report_of(request.node))
        response = service_pb2.RegisterNodeResponse(
            node_lease=_duration(told.lease_s), heartbeat_interval=_duration(told.heartbeat_s)
        )
        for live in told.live:
            attempt = response.live_attempts.add(run=live.run)
            if live.approval is not None:
                attempt.approval.ParseFromString(live.approval)
        return response

    async def HeartbeatNode(
        self, request: service_pb2.HeartbeatNodeRequest, context: Context
    ) -> service_pb2.HeartbeatNodeResponse:
        """Keep a node's report."""
        lease_s = await self._fleet.heartbeat(report_of(request.node))
        if lease_s is None:
            return service_pb2.HeartbeatNodeResponse(register_again=True)
        return service_pb2.HeartbeatNodeResponse(node_lease=_duration(lease_s))

    async def ListNodes(
        self, request: service_pb2.ListNodesRequest, context: Context
    ) -> service_pb2.ListNodesResponse:
        """List nodes."""
        views, token = await self._fleet.page(request.page_size, request.page_token)
        listed = [node_message(view.node, view.runs) for view in views]
        return service_pb2.ListNodesResponse(nodes=listed, next_page_token=token)

    async def WatchFleet(
        self, request: service_pb2.WatchFleetRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchFleetResponse]:
        """Follow the nodes."""
        async for view in self._fleet.watch():
            yield service_pb2.WatchFleetResponse(node=node_message(view.node, view.runs))

    async def CordonNode(
        self, request: service_pb2.CordonNodeRequest, context: Context
    ) -> resources_pb2.FleetNode:
        """Send no new jobs to a node."""
        view = await self._fleet.mark(request.name, cordoned=True)
        return node_message(view.node, view.runs)

    async def UncordonNode(
        self, request: service_pb2.UncordonNodeRequest, context: Context
    ) -> resources_pb2.FleetNode:
        """Send jobs to it again."""
        view = await self._fleet.mark(request.name, cordoned=False, draining=False)
        return node_message(view.node, view.runs)

    async def DrainNode(
        self, request: service_pb2.DrainNodeRequest, context: Context
    ) -> resources_pb2.FleetNode:
        """Move a node's jobs away."""
        view = await self._fleet.mark(request.name, cordoned=True, draining=True)
        return node_message(view.node, view.runs)

    async def DeleteNode(self, request: service_pb2.DeleteNodeRequest, context: Context) -> Empty:
        """Forget a node."""
        await self._fleet.delete(request.name, force=request.force)
        return Empty()

    async def RecommendPlans(
        self, request: service_pb2.RecommendPlansRequest, context: Context
    ) -> hardware_service_pb2.RecommendPlansResponse:
        """Ask the estimator for plans that fit the fleet."""
        known = await self._known(request)
        asked = hardware_service_pb2.RecommendPlansRequest(
            spec=request.spec, max_plans=request.max_plans, **known
        )
        answer: hardware_service_pb2.RecommendPlansResponse = await self._estimate("RecommendPlans", asked)
        return answer

    async def RecommendModels(
        self, request: service_pb2.RecommendModelsRequest, context: Context
    ) -> hardware_service_pb2.RecommendModelsResponse:
        """Ask the estimator what the fleet can train."""
        nodes = await self._recent.nodes()
        snapshots = [hardware_pb2.Node.FromString(node.snapshot) for node in nodes]
        asked = hardware_service_pb2.RecommendModelsRequest(task=request.task, nodes=snapshots)
        answer: hardware_service_pb2.RecommendModelsResponse = await self._estimate("RecommendModels", asked)
        return answer

    async def FindLargestFeasible(
        self, request: service_pb2.FindLargestFeasibleRequest, context: Context
    ) -> hardware_service_pb2.FindLargestFeasibleResponse:
        """Ask the estimator how far one field can go."""
        known = await self._known(request)
        known.pop("base_artifact")
        asked = hardware_service_pb2.FindLargestFeasibleRequest(
            spec=request.spec, field=request.field, **known
        )
        answer: hardware_service_pb2.FindLargestFeasibleResponse = await self._estimate(
            "FindLargestFeasible", asked
        )
        return answer

    async def ListOutcomes(
        self, request: hardware_service_pb2.ListOutcomesRequest, context: Context
    ) -> hardware_service_pb2.ListOutcomesResponse:
        """List predictions beside measurements."""
        since = _moment(request.since) if request.HasField("since") else None
        found, token = await self._trail.outcomes(since, request.page_size, request.page_token)
        listed = [outcome_message(outcome) for outcome in found]
        return hardware_service_pb2.ListOutcomesResponse(outcomes=listed, next_page_token=token)

    async def ListAdmissions(
        self, request: service_pb2.ListAdmissionsRequest, context: Context
    ) -> service_pb2.ListAdmissionsResponse:
        """List decisions."""
        since = _moment(request.since) if request.HasField("since") else None
        project = request.parent.removeprefix("projects/")
        found, token = await self._trail.admissions(
            project, request.job, since, request.page_size, request.page_token
        )
        listed = [admission_message(entry) for entry in found]
        return service_pb2.ListAdmissionsResponse(admissions=listed, next_page_token=token)

    async def _known(self, request: Any) -> dict[str, Any]:
        """Return what the estimator has to know beside a request's spec."""
        packed = Packed(request.spec.SerializeToString())
        question, nodes, _ = await self._check.ask_about(
            parse_project(request.parent), spec_from_message(request.spec), packed
        )
        known: dict[str, Any] = {
            "nodes": [hardware_pb2.Node.FromString(node.snapshot) for node in nodes],
            "dataset": None,
            "base_artifact": None,
        }
        if question.dataset is not None:
            known["dataset"] = to_message(question.dataset, resolved_spec_pb2.DatasetSummary)
        if question.base_artifact is not None:
            known["base_artifact"] = artifacts_pb2.FileTree.FromString(question.base_artifact)
        return known

    async def _estimate(self, method: str, request: Any) -> Any:
        peers = self._peers
        return await ask(
            getattr(peers.estimator, method), request, peers.estimator_target, peers.estimate_timeout_s
        )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
