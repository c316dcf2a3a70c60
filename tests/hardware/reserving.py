"""What a gateway and a trainer say to a node, in few words."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from services.common.channels import connect
from services.common.wire import to_domain, to_message
from services.hardware.resources import HOST, Node, Reservation
from services.hardware.units import MIB
from services.hardware.weighing import Decision
from tests.common.processes import ServiceProcess
from tests.hardware.samples import SOFTWARE, estimate, resolved_bytes
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc

CAPACITY = {"WEIGHBRIDGE_CAPACITY_BYTES": f'{{"{HOST}": {1000 * MIB}}}'}
"""Settings of a node that has 1000 MiB for jobs."""
SPEC = resolved_bytes()


@dataclass(frozen=True)
class Answer:
    """What became of a Reserve."""

    decision: Decision
    token: str
    summary: str


class Caller:
    """A gateway and a trainer in one; `reserve` asks for MiB of host memory."""

    def __init__(self, gateway: Any, trainer: Any) -> None:
        self.gateway = service_pb2_grpc.NodeServiceStub(gateway)
        self.trainer = service_pb2_grpc.NodeServiceStub(trainer)

    async def report_trainer(self) -> service_pb2.ReportTrainerResponse:
        software = to_message(SOFTWARE, resources_pb2.Software)
        request = service_pb2.ReportTrainerRequest(address="127.0.0.1:7003", software=software)
        return await self.trainer.ReportTrainer(request)

    async def reserve(self, run: str, size: int, spec: bytes = SPEC) -> Answer:
        message = to_message(estimate(host_bytes=size * MIB), resources_pb2.Estimate)
        request = service_pb2.ReserveRequest(run=run, resolved_spec=spec, estimate=message)
        response = await self.gateway.Reserve(request)
        decision = Decision(resources_pb2.Decision.Name(response.verdict.decision)[9:].lower())
        return Answer(decision, response.approval.token, response.verdict.summary)

    async def activate(self, run: str, token: str, sha256: str) -> Reservation:
        request = service_pb2.ActivateReservationRequest(approval=token, spec_sha256=sha256, run=run)
        return to_domain(Reservation, await self.trainer.ActivateReservation(request))

    async def release(self, run: str) -> None:
        await self.trainer.ReleaseReservation(service_pb2.ReleaseReservationRequest(run=run))

    async def report_usage(self, run: str, size: int) -> None:
        used = [resources_pb2.DeviceAmount(device=HOST, used_bytes=size * MIB)]
        await self.trainer.ReportUsage(service_pb2.ReportUsageRequest(run=run, used=used))

    async def node(self) -> Node:
        return to_domain(Node, await self.gateway.GetNode(service_pb2.GetNodeRequest()))

    async def held(self) -> dict[str, str]:
        """Return run and state of every reservation that holds memory."""
        response = await self.gateway.ListReservations(service_pb2.ListReservationsRequest())
        listed = (to_domain(Reservation, held) for held in response.reservations)
        return {held.run: held.state.value for held in listed}


@contextlib.asynccontextmanager
async def calling(server: ServiceProcess, *, ready: bool = True) -> AsyncIterator[Caller]:
    """Call a node; `ready`: its trainer has reported itself."""
    address = server.address()
    async with (
        connect(address, token="gateway-token") as gateway,
        connect(address, token="trainer-token") as trainer,
    ):
        caller = Caller(gateway, trainer)
        if ready:
            await caller.report_trainer()
        yield caller
