"""A node whose memory is a number: it reserves, releases and reports over real sockets."""

import asyncio
import contextlib
from typing import Any

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from services.common.channels import connect
from services.common.errors import StaleAttempt
from services.common.names import parse_run
from tests.gateway.fake_estimator import weigh
from tests.gateway.fake_trainer import FakeTrainer
from tests.gateway.faults import Faults, refuse
from weighbridge.common.v1 import training_spec_pb2
from weighbridge.gateway.v1 import service_pb2 as gateway_pb2
from weighbridge.gateway.v1 import service_pb2_grpc as gateway_grpc
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc

_BEAT_S = 0.2


class FakeNode(service_pb2_grpc.NodeServiceServicer):
    """A machine with a trainer."""

    def __init__(self, name: str, capacity_bytes: int) -> None:
        self.name = name
        self.capacity_bytes = capacity_bytes
        self.ready = True
        self.faults = Faults()
        self.after_reserving = Faults()
        self.reservations: dict[str, resources_pb2.Reservation] = {}
        self.released: dict[str, int] = {}
        self.reserved: list[str] = []
        self.start_from: dict[str, Any] = {}
        self.registered: gateway_pb2.RegisterNodeResponse | None = None
        self.trainer = FakeTrainer(self.release)
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()
        self._membership: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Answer calls of node and trainer."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_NodeServiceServicer_to_server(self, self._server)
        self.trainer.add_to(self._server)
        port = self._server.add_insecure_port(self.address or "127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"
        await self._server.start()

    def join(self, gateway: str, token: str) -> None:
        """Be a member of a gateway's fleet from now on."""
        self._membership = asyncio.create_task(self._keep_joined(gateway, token))

    async def fall_silent(self) -> None:
        """Report no more and answer nothing, as a machine whose network is gone."""
        if self._membership is not None:
            self._membership.cancel()
            await asyncio.gather(self._membership, return_exceptions=True)
            self._membership = None
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def stop(self) -> None:
        """End."""
        self.trainer.close()
        await self.fall_silent()

    def release(self, run: str) -> None:
        """Free a run's memory and refuse it from now on."""
        job_id, attempt = parse_run(run)
        self.released[job_id] = max(attempt, self.released.get(job_id, 0))
        self.reservations.pop(run, None)
        self._changed.set()

    def activate(self, run: str) -> None:
        self.reservations[run].state = resources_pb2.RESERVATION_STATE_ACTIVE
        self._changed.set()

    def expire(self, run: str) -> None:
        """Let a held reservation lapse."""
        self.reservations.pop(run)
        self._changed.set()

    def set(self, **changes: Any) -> None:
        """Change what the node says about itself."""
        for name, value in changes.items():
            setattr(self, name, value)
        self._changed.set()

    def snapshot(self) -> resources_pb2.Node:
        held = sum(amount.reserved_bytes for each in self.reservations.values() for amount in each.amounts)
        node = resources_pb2.Node(
            name=self.name,
            state=resources_pb2.NODE_STATE_READY if self.ready else resources_pb2.NODE_STATE_NOT_READY,
            state_reason="" if self.ready else "no trainer has reported itself",
            address=self.address,
            trainer_address=self.address,
            reservations=self.reservations.values(),
        )
        node.cpu.model = "Fake CPU"
        node.devices.add(
            id="host",
            kind=resources_pb2.MEMORY_KIND_HOST,
            total_bytes=self.capacity_bytes,
            capacity_bytes=self.capacity_bytes,
            held_bytes=held,
            available_bytes=self.capacity_bytes - held,
        )
        node.observe_time.GetCurrentTime()
        return node

    async def GetNode(self, request: service_pb2.GetNodeRequest, context: Any) -> resources_pb2.Node:
        return self.snapshot()

    async def Reserve(self, request: service_pb2.ReserveRequest, context: Any) -> service_pb2.ReserveResponse:
        await self.faults.strike("Reserve", context)
        job_id, attempt = parse_run(request.run)
        if attempt <= self.released.get(job_id, 0):
            await refuse(context, StaleAttempt(request.run, self.released[job_id]))
        verdict = weigh(self.snapshot(), request.estimate)
        if request.run in self.reservations:
            verdict.decision = resources_pb2.DECISION_ADMIT
        if verdict.decision != resources_pb2.DECISION_ADMIT:
            return service_pb2.ReserveResponse(verdict=verdict)
        needed = request.estimate.placements[0].host.peak_reserved_bytes
        amount = resources_pb2.DeviceAmount(device="host", reserved_bytes=needed)
        held = resources_pb2.Reservation(
            run=request.run, state=resources_pb2.RESERVATION_STATE_HELD, amounts=[amount]
        )
        self.reservations.setdefault(request.run, held)
        self.reserved.append(request.run)
        self.start_from[request.run] = request.start_from if request.HasField("start_from") else None
        self._changed.set()
        approval = resources_pb2.Approval(
            token=f"signed {len(self.reserved)}",
            run=request.run,
            node=self.name,
            amounts=[amount],
            device=training_spec_pb2.DEVICE_KIND_CPU,
            start_from=request.start_from if request.HasField("start_from") else None,
        )
        await self.after_reserving.strike("Reserve", context)
        return service_pb2.ReserveResponse(verdict=verdict, approval=approval)

    async def ReleaseReservation(self, request: service_pb2.ReleaseReservationRequest, context: Any) -> Empty:
        await self.faults.strike("ReleaseReservation", context)
        self.release(request.run)
        return Empty()

    async def _keep_joined(self, gateway: str, token: str) -> None:
        async with connect(gateway, token=token) as channel:
            fleet = gateway_grpc.FleetServiceStub(channel)
            again = True
            while True:
                # A gateway that was killed is asked again until another one answers.
                with contextlib.suppress(grpc.aio.AioRpcError):
                    if again:
                        request = gateway_pb2.RegisterNodeRequest(node=self.snapshot(), has_journal=True)
                        self.registered = await fleet.RegisterNode(request, timeout=5)
                    beat = gateway_pb2.HeartbeatNodeRequest(node=self.snapshot())
                    again = (await fleet.HeartbeatNode(beat, timeout=5)).register_again
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_S):
                        await self._changed.wait()
                self._changed.clear()
