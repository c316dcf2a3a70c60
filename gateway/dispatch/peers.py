"""Nodes and trainers, as the dispatcher asks them. Every method raises ServiceError where it is refused."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from gateway.audit.records import DeviceAmount
from gateway.dispatch.runs import (
    Approved,
    Checkpointed,
    Evaluated,
    Noticed,
    Prepared,
    Progressed,
    Reserved,
    Run,
    RunEvent,
    StateChanged,
    What,
)
from gateway.jobs.job import DevicePeak
from gateway.jobs.states import RunState
from gateway.nodes.node import Report
from gateway.nodes.wire import report_of
from gateway.packed import Packed
from gateway.peers import Peers, ask
from gateway.weighing.peers import node_verdict
from services.common.failures import Failure
from services.common.rpc import from_rpc_error
from services.common.specs import Checkpoint
from services.common.wire import to_domain, to_message
from weighbridge.common.v1 import artifacts_pb2, training_spec_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.hardware.v1 import service_pb2 as hardware_service_pb2
from weighbridge.trainer.v1 import resources_pb2, service_pb2

_RUN_STATE: Any = resources_pb2.RunState


class Nodes:
    """Reservations on nodes, each by its address."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def reserve(
        self, address: str, run: str, resolved: bytes, estimate: Packed, start_from: Checkpoint | None
    ) -> Reserved:
        """Check and reserve in one step. Raises StaleAttempt."""
        request = hardware_service_pb2.ReserveRequest(
            run=run,
            resolved_spec=resolved,
            estimate=hardware_pb2.Estimate.FromString(estimate),
            start_from=None if start_from is None else to_message(start_from, artifacts_pb2.Checkpoint),
        )
        answer = await self._ask(address, "Reserve", request)
        approval = _approved(answer.approval) if answer.HasField("approval") else None
        return Reserved(node_verdict(answer.verdict), approval)

    async def read(self, address: str) -> Report:
        """Return a node as it is now."""
        return report_of(await self._ask(address, "GetNode", hardware_service_pb2.GetNodeRequest()))

    async def release(self, address: str, run: str) -> None:
        """Free a run's memory for good."""
        request = hardware_service_pb2.ReleaseReservationRequest(run=run)
        await self._ask(address, "ReleaseReservation", request)

    async def _ask(self, address: str, method: str, request: Any) -> Any:
        stub = self._peers.node(address)
        return await ask(getattr(stub, method), request, address, self._peers.timeout_s)


class Trainers:
    """Runs on trainers, each by its address."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def start_run(
        self, address: str, run: str, approval: Packed, resolved: bytes, project: str
    ) -> None:
        """Start an approved run. Raises ApprovalRefused where it is not exactly what was approved."""
        request = service_pb2.StartRunRequest(
            run=run,
            approval=hardware_pb2.Approval.FromString(approval),
            resolved_spec=resolved,
            project=project,
        )
        await self._ask(address, "StartRun", request)

    async def get_run(self, address: str, run: str) -> Run:
        """Return a run. Raises NotFound."""
        return _run(await self._ask(address, "GetRun", service_pb2.GetRunRequest(name=run)))

    async def cancel_run(self, address: str, run: str, grace_s: float) -> Run:
        """Have a run stop; an unknown one is never started."""
        grace = Duration()
        grace.FromNanoseconds(round(grace_s * 1e9))
        request = service_pb2.CancelRunRequest(name=run, grace=grace)
        return _run(await self._ask(address, "CancelRun", request))

    async def delete_run(self, address: str, run: str) -> None:
        """Remove an ended run's directory."""
        await self._ask(address, "DeleteRun", service_pb2.DeleteRunRequest(name=run))

    async def watch_run(self, address: str, run: str, cursor: str) -> AsyncIterator[RunEvent]:
        """Yield a run's events after a cursor, until that of a final state. Raises NotFound."""
        request = service_pb2.WatchRunRequest(name=run, cursor=cursor)
        try:
            async for response in self._peers.trainer(address).WatchRun(request):
                yield _event(response.event)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address) from error

    async def _ask(self, address: str, method: str, request: Any) -> Any:
        stub = self._peers.trainer(address)
        return await ask(getattr(stub, method), request, address, self._peers.timeout_s)


def _approved(message: hardware_pb2.Approval) -> Approved:
    device = training_spec_pb2.DeviceKind.Name(message.device).removeprefix("DEVICE_KIND_").lower()
    amounts = tuple(to_domain(DeviceAmount, amount) for amount in message.amounts)
    return Approved(Packed(message.SerializeToString()), device, amounts)


def _run(message: resources_pb2.Run) -> Run:
    return Run(message.name, _state(message.state), _peaks(message.peaks))


def _event(message: resources_pb2.RunEvent) -> RunEvent:
    time = message.time.ToDatetime(UTC)
    return RunEvent(message.cursor, time, _what(message, time))


def _what(message: resources_pb2.RunEvent, time: datetime) -> What:
    kind = message.WhichOneof("event")
    if kind == "state_change":
        return _state_change(message.state_change, time)
    body: Any = getattr(message, kind or "notice")
    packed = Packed(body.SerializeToString())
    if kind == "progress":
        return Progressed(packed)
    if kind == "evaluation":
        return Evaluated(dict(body.metrics), packed)
    if kind == "checkpoint":
        return Checkpointed(to_domain(Checkpoint, body), packed)
    if kind == "preparation":
        phase = resources_pb2.StartPhase.Name(body.phase).removeprefix("START_PHASE_").lower()
        return Prepared(phase, body.done_bytes, body.total_bytes)
    return Noticed(packed)


def _state_change(message: resources_pb2.StateChange, time: datetime) -> StateChanged:
    made = message.HasField("artifact")
    return StateChanged(
        state=_state(message.state),
        failure=to_domain(Failure, message.failure) if message.HasField("failure") else None,
        artifact=Packed(message.artifact.SerializeToString()) if made else None,
        artifact_digest=message.artifact.digest,
        peaks=_peaks(message.peaks),
        time=time,
    )


def _peaks(messages: Any) -> tuple[DevicePeak, ...]:
    return tuple(to_domain(DevicePeak, message) for message in messages)


def _state(number: int) -> RunState:
    return RunState(_RUN_STATE.Name(number).removeprefix("RUN_STATE_").lower())
