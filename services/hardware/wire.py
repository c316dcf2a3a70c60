"""The contract's methods, translated: messages in, frozen dataclasses to the domain, messages out."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from google.protobuf.empty_pb2 import Empty

from services.common.errors import NotAvailable
from services.common.interception import Context
from services.common.lease import Lease
from services.common.pages import decode_token, encode_token, page_size
from services.common.spec_wire import parse_resolved
from services.common.specs import Checkpoint
from services.common.wire import to_domain, to_message
from services.hardware.admission.desk import Desk
from services.hardware.admission.verdicts import weigh
from services.hardware.admission.view import NodeView
from services.hardware.estimate.frames import Kind
from services.hardware.estimate.process import EstimatorProcess
from services.hardware.resources import Node, Reservation, Software
from services.hardware.weighing import Estimate, Verdict
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc

_RESERVATIONS = "ListReservations"


class NodeServicer(service_pb2_grpc.NodeServiceServicer):
    """The node role."""

    def __init__(self, view: NodeView, desk: Desk, lease: Lease) -> None:
        self._view = view
        self._desk = desk
        self._lease = lease

    async def GetNode(self, request: service_pb2.GetNodeRequest, context: Context) -> resources_pb2.Node:
        """Read the node as it is now."""
        return to_message(await self._view.read(), resources_pb2.Node)

    async def WatchNode(
        self, request: service_pb2.WatchNodeRequest, context: Context
    ) -> AsyncIterator[service_pb2.WatchNodeResponse]:
        """Send the node and its changes."""
        async for node in self._view.changes():
            yield service_pb2.WatchNodeResponse(node=to_message(node, resources_pb2.Node))

    async def CheckFeasibility(
        self, request: service_pb2.CheckFeasibilityRequest, context: Context
    ) -> resources_pb2.Verdict:
        """Weigh without reserving."""
        verdict = await self._desk.check(request.resolved_spec, to_domain(Estimate, request.estimate))
        return to_message(verdict, resources_pb2.Verdict)

    async def Reserve(
        self, request: service_pb2.ReserveRequest, context: Context
    ) -> service_pb2.ReserveResponse:
        """Weigh, reserve and approve in one step."""
        start_from = to_domain(Checkpoint, request.start_from) if request.HasField("start_from") else None
        estimate = to_domain(Estimate, request.estimate)
        verdict, approval = await self._desk.reserve(request.run, request.resolved_spec, estimate, start_from)
        response = service_pb2.ReserveResponse(verdict=to_message(verdict, resources_pb2.Verdict))
        if approval is not None:
            response.approval.CopyFrom(to_message(approval, resources_pb2.Approval))
        return response

    async def ActivateReservation(
        self, request: service_pb2.ActivateReservationRequest, context: Context
    ) -> resources_pb2.Reservation:
        """Let the trainer claim what was approved."""
        reservation = await self._desk.activate(request.approval, request.spec_sha256, request.run)
        return to_message(reservation, resources_pb2.Reservation)

    async def ReportUsage(self, request: service_pb2.ReportUsageRequest, context: Context) -> Empty:
        """Take a run's use of memory."""
        self._desk.report_usage(request.run, {amount.device: amount.used_bytes for amount in request.used})
        return Empty()

    async def ReleaseReservation(
        self, request: service_pb2.ReleaseReservationRequest, context: Context
    ) -> Empty:
        """Take memory back for good."""
        await self._desk.release(request.run)
        return Empty()

    async def ListReservations(
        self, request: service_pb2.ListReservationsRequest, context: Context
    ) -> service_pb2.ListReservationsResponse:
        """List what holds memory, by run."""
        after = ""
        if request.page_token:
            after = decode_token(request.page_token, {"run": str}, _RESERVATIONS)["run"]
        rest = [held for held in self._desk.holding() if held.run > after]
        page = rest[: page_size(request.page_size)]
        more = len(page) < len(rest)
        return service_pb2.ListReservationsResponse(
            reservations=_reservations(page),
            next_page_token=encode_token({"run": page[-1].run}, _RESERVATIONS) if more else "",
        )

    async def ReportTrainer(
        self, request: service_pb2.ReportTrainerRequest, context: Context
    ) -> service_pb2.ReportTrainerResponse:
        """Take the trainer's address and capabilities; tell it which runs count as alive, and how long."""
        self._view.report_trainer(request.address, to_domain(Software, request.software))
        active, left_s = self._desk.active(), self._lease.left_s
        response = service_pb2.ReportTrainerResponse(node=self._view.name, reservations=_reservations(active))
        if left_s is not None:
            response.lease.FromNanoseconds(int(left_s * 1e9))
        return response


class EstimatorServicer(service_pb2_grpc.EstimatorServiceServicer):
    """The estimator role. What reads a model's configuration happens in `process`."""

    def __init__(self, process: EstimatorProcess) -> None:
        self._process = process

    async def ResolveSpec(
        self, request: service_pb2.ResolveSpecRequest, context: Context
    ) -> service_pb2.ResolveSpecResponse:
        """Leave nothing open in a spec."""
        answer = await self._process.call(Kind.RESOLVE, request.SerializeToString())
        return service_pb2.ResolveSpecResponse.FromString(answer)

    async def EstimateTraining(
        self, request: service_pb2.EstimateTrainingRequest, context: Context
    ) -> resources_pb2.Estimate:
        """Predict what a resolved spec needs."""
        answer = await self._process.call(Kind.ESTIMATE, request.resolved_spec)
        return resources_pb2.Estimate.FromString(answer)

    async def EstimateChat(
        self, request: service_pb2.EstimateChatRequest, context: Context
    ) -> service_pb2.EstimateChatResponse:
        """Predict what talking to an artifact needs."""
        answer = await self._process.call(Kind.CHAT, request.SerializeToString())
        return service_pb2.EstimateChatResponse.FromString(answer)

    async def WeighNodes(
        self, request: service_pb2.WeighNodesRequest, context: Context
    ) -> service_pb2.WeighNodesResponse:
        """Hold an estimate against snapshots."""
        # A fleet of thousands takes a while: other calls must not wait for it.
        verdicts = await asyncio.to_thread(_weigh_all, request)
        return service_pb2.WeighNodesResponse(
            verdicts=[to_message(verdict, resources_pb2.Verdict) for verdict in verdicts]
        )

    async def RecommendPlans(
        self, request: service_pb2.RecommendPlansRequest, context: Context
    ) -> service_pb2.RecommendPlansResponse:
        """Not offered yet."""
        raise _plans_not_available()

    async def RecommendModels(
        self, request: service_pb2.RecommendModelsRequest, context: Context
    ) -> service_pb2.RecommendModelsResponse:
        """Not offered yet."""
        raise _plans_not_available()

    async def FindLargestFeasible(
        self, request: service_pb2.FindLargestFeasibleRequest, context: Context
    ) -> service_pb2.FindLargestFeasibleResponse:
        """Not offered yet."""
        raise _plans_not_available()

    async def ReportOutcome(self, request: service_pb2.ReportOutcomeRequest, context: Context) -> Empty:
        """Not offered yet."""
        raise _outcomes_not_available()

    async def ListOutcomes(
        self, request: service_pb2.ListOutcomesRequest, context: Context
    ) -> service_pb2.ListOutcomesResponse:
        """Not offered yet."""
        raise _outcomes_not_available()


def _reservations(held: Sequence[Reservation]) -> list[resources_pb2.Reservation]:
    return [to_message(reservation, resources_pb2.Reservation) for reservation in held]


def _weigh_all(request: service_pb2.WeighNodesRequest) -> list[Verdict]:
    resolved, estimate = parse_resolved(request.resolved_spec), to_domain(Estimate, request.estimate)
    return [weigh(to_domain(Node, node), resolved, estimate) for node in request.nodes]


def _plans_not_available() -> NotAvailable:
    return NotAvailable(
        "this version says whether a spec fits and searches no other: change the spec as the verdict advises"
    )


def _outcomes_not_available() -> NotAvailable:
    return NotAvailable("this version keeps no outcomes: read predicted and measured peaks from the job")
