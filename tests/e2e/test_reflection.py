"""A stock gRPC tool that knows only reflection can list, describe and call everything, given the token."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.platform import Platform

SERVICES = {
    "gateway": ("weighbridge.gateway.v1.TrainingService", "weighbridge.gateway.v1.FleetService"),
    "hardware": ("weighbridge.hardware.v1.NodeService", "weighbridge.hardware.v1.EstimatorService"),
    "trainer": ("weighbridge.trainer.v1.TrainerService",),
}


class _Bearer(
    grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    """Adds the token to every call, as a stock tool does with its header option."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")

    def _intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details._replace(metadata=[*(details.metadata or ()), self._header]), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _intercept


@pytest.fixture(params=SERVICES)
def tool(
    request: pytest.FixtureRequest, platform: Platform
) -> Iterator[tuple[str, grpc.Channel, DescriptorPool]]:
    """Return a service's name, a channel with the user's token, and what reflection told."""
    with platform.channel(request.param) as plain:
        channel = grpc.intercept_channel(plain, _Bearer(platform.token("user")))
        yield request.param, channel, DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


def test_reflection_lists_and_describes_every_method(tool: tuple[str, grpc.Channel, DescriptorPool]) -> None:
    name, channel, pool = tool
    listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert set(SERVICES[name]) <= listed
    for service in SERVICES[name]:
        described: ServiceDescriptor = pool.FindServiceByName(service)
        assert described.methods
        for method in described.methods:
            assert method.input_type is not None
            assert method.output_type is not None


def test_every_unary_method_answers_a_call_made_from_its_description_alone(
    tool: tuple[str, grpc.Channel, DescriptorPool],
) -> None:
    name, channel, pool = tool
    for service in SERVICES[name]:
        for method in pool.FindServiceByName(service).methods:
            if not method.client_streaming and not method.server_streaming:
                assert answered(channel, method), method.full_name


def answered(channel: grpc.Channel, method: MethodDescriptor) -> bool:
    """Call a method with an empty request; whatever it says to that, it must be its own word."""
    call = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    try:
        call(GetMessageClass(method.input_type)(), timeout=60)
    except grpc.RpcError as error:
        own = (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNIMPLEMENTED,
        )
        return error.code() in own and any(
            key == "grpc-status-details-bin" for key, _ in error.trailing_metadata()
        )
    return True


def test_reflection_without_a_token_tells_nothing(platform: Platform) -> None:
    with platform.channel("gateway") as channel, pytest.raises(grpc.RpcError) as caught:
        ProtoReflectionDescriptorDatabase(channel).get_services()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
