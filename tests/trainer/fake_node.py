"""A hardware service without hardware: it says what a test tells it to say, over a real socket."""

import base64
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from google.protobuf.empty_pb2 import Empty

from services.common.errors import ServiceError
from services.common.rpc import DETAILS_KEY, status_of
from weighbridge.common.v1 import artifacts_pb2, training_spec_pb2
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc

NODE = "nodes/here"


class FakeNode(service_pb2_grpc.NodeServiceServicer):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.refusals: dict[str, ServiceError] = {}
        """What ActivateReservation answers, by run."""
        self.usage_refusals: dict[str, ServiceError] = {}
        """What ReportUsage answers, by run."""
        self.activations: list[str] = []
        self.active: set[str] = set()
        self.released: list[str] = []
        self.used: list[tuple[str, str, int]] = []
        self.reports: list[service_pb2.ReportTrainerRequest] = []
        self.lease_s: int | None = None
        """How long runs may go on, from each report. None: for ever."""
        self.before_activation: dict[str, Callable[[], Awaitable[None]]] = {}
        """What is done first, by run."""
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_NodeServiceServicer_to_server(self, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    async def ActivateReservation(
        self, request: service_pb2.ActivateReservationRequest, context: Any
    ) -> resources_pb2.Reservation:
        self.activations.append(request.run)
        if request.run in self.before_activation:
            await self.before_activation[request.run]()
        await _refuse(self.refusals.get(request.run), context)
        self.active.add(request.run)
        return resources_pb2.Reservation(run=request.run, state=resources_pb2.RESERVATION_STATE_ACTIVE)

    async def ReportUsage(self, request: service_pb2.ReportUsageRequest, context: Any) -> Empty:
        await _refuse(self.usage_refusals.get(request.run), context)
        self.used += [(request.run, amount.device, amount.used_bytes) for amount in request.used]
        return Empty()

    async def ReleaseReservation(self, request: service_pb2.ReleaseReservationRequest, context: Any) -> Empty:
        self.released.append(request.run)
        self.active.discard(request.run)
        return Empty()

    async def ReportTrainer(
        self, request: service_pb2.ReportTrainerRequest, context: Any
    ) -> service_pb2.ReportTrainerResponse:
        self.reports.append(request)
        state = resources_pb2.RESERVATION_STATE_ACTIVE
        active = [resources_pb2.Reservation(run=run, state=state) for run in sorted(self.active)]
        response = service_pb2.ReportTrainerResponse(node=NODE, reservations=active)
        if self.lease_s is not None:
            response.lease.FromSeconds(self.lease_s)
        return response


async def _refuse(error: ServiceError | None, context: Any) -> None:
    if error is not None:
        status = status_of(error)
        details = ((DETAILS_KEY, status.SerializeToString()),)
        await context.abort(grpc.StatusCode[error.code], status.message, details)


def approval(
    name: str, spec: bytes, start_from: artifacts_pb2.Checkpoint | None = None, **changed: Any
) -> resources_pb2.Approval:
    """Return what a node would have signed, but for the signature; `changed` overrides what is signed.

    Its copies beside the token say the same.
    """
    digest = hashlib.sha256(spec).hexdigest()
    claims = {
        "jti": "1",
        "exp": time.time() + 60,
        "reservation": "r1",
        "node": NODE,
        "run": name,
        "device": "cpu",
        "amounts": {"host": 2 << 30, "disk": 1 << 20},
        "spec_sha256": digest,
        "start_from": None,
        **changed,
    }
    if start_from is not None:
        claims["start_from"] = {
            "step": start_from.step,
            "digest": start_from.digest,
            "size_bytes": start_from.size_bytes,
            "attempt": start_from.attempt,
            "epoch": start_from.epoch,
            "metrics": dict(start_from.metrics),
        }
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return resources_pb2.Approval(
        token=f"e30.{payload}.c2ln",
        run=str(claims["run"]),
        node=str(claims["node"]),
        device=training_spec_pb2.DEVICE_KIND_CPU,
        spec_sha256=str(claims["spec_sha256"]),
        start_from=start_from,
    )
