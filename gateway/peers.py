"""Channels to the services behind the gateway, one an address, and how they are asked."""

from typing import Any

import grpc.aio
from google.protobuf.message import Message

from gateway.settings import GatewaySettings
from services.common.channels import connect
from services.common.errors import PeerUnavailable
from services.common.rpc import from_rpc_error
from weighbridge.hardware.v1 import service_pb2_grpc as hardware_grpc
from weighbridge.trainer.v1 import service_pb2_grpc as trainer_grpc


class Peers:
    """The estimator, and every node and trainer by its address. Calls tell for whom they are made."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.timeout_s = settings.peer_timeout_s
        self.estimate_timeout_s = settings.estimate_timeout_s
        self._token = settings.token()
        self._tls = settings.tls_ca
        self._channels: dict[str, grpc.aio.Channel] = {}
        self.estimator_target = settings.estimator_target
        self.estimator = hardware_grpc.EstimatorServiceStub(self._channel(settings.estimator_target))

    def node(self, address: str) -> "hardware_grpc.NodeServiceAsyncStub":
        """Return the node's service. Raises PeerUnavailable where the address is unknown."""
        return hardware_grpc.NodeServiceStub(self._channel(address))

    def trainer(self, address: str) -> "trainer_grpc.TrainerServiceAsyncStub":
        """Return the trainer's service. Raises PeerUnavailable where the address is unknown."""
        return trainer_grpc.TrainerServiceStub(self._channel(address))

    async def close(self) -> None:
        """Hang up."""
        for channel in self._channels.values():
            await channel.close()

    def _channel(self, address: str) -> grpc.aio.Channel:
        if not address:
            raise PeerUnavailable("a service that has not told its address")
        # Kept: a connection costs more than a call. An address that is gone costs little but its backoff.
        if address not in self._channels:
            self._channels[address] = connect(address, token=self._token, tls=self._tls, forward_caller=True)
        return self._channels[address]


async def ask(method: Any, request: Message, target: str, timeout_s: float) -> Any:
    """Return a unary call's answer. Raises the ServiceError that the peer answered with."""
    try:
        return await method(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, target) from error
