"""The one service that the trainer calls: its node's hardware service."""

from typing import Any

import grpc.aio
from google.protobuf.message import Message

from services.common.rpc import from_rpc_error
from services.common.wire import to_domain, to_message
from services.trainer.node import DeviceAmount, Software, TrainerReport
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc

# A node answers from memory and one fsync: what takes longer will not come.
_TIMEOUT_S = 10.0


class HardwareNode:
    """The node that promises memory to runs. Each method raises ServiceError where it refuses or is away."""

    def __init__(self, channel: grpc.aio.Channel, target: str) -> None:
        self._stub = service_pb2_grpc.NodeServiceStub(channel)
        self._target = target

    async def activate(self, run: str, approval: str, spec_sha256: str) -> None:
        """Turn the run's reservation from held into active. Idempotent.

        Raises:
            ApprovalRefused: the approval is not this node's, expired, used, or for another run or spec.
            StaleAttempt, NoReservation: the reservation is over, or was never made.
        """
        request = service_pb2.ActivateReservationRequest(approval=approval, spec_sha256=spec_sha256, run=run)
        await self._call(self._stub.ActivateReservation, request)

    async def report_usage(self, run: str, used: tuple[DeviceAmount, ...]) -> None:
        """Tell what the run uses now."""
        amounts = [to_message(amount, resources_pb2.DeviceAmount) for amount in used]
        await self._call(self._stub.ReportUsage, service_pb2.ReportUsageRequest(run=run, used=amounts))

    async def release(self, run: str) -> None:
        """Give the run's memory back for good. Idempotent."""
        await self._call(self._stub.ReleaseReservation, service_pb2.ReleaseReservationRequest(run=run))

    async def report_trainer(self, address: str, software: Software) -> TrainerReport:
        """Tell where this trainer answers and what its workers can import."""
        message = to_message(software, resources_pb2.Software)
        request = service_pb2.ReportTrainerRequest(address=address, software=message)
        return to_domain(TrainerReport, await self._call(self._stub.ReportTrainer, request))

    async def _call(self, method: Any, request: Message) -> Message:
        try:
            response: Message = await method(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self._target) from error
        return response
