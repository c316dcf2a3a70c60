"""What a call carries to the next service, and when it is tried again."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from services.common.channels import connect
from services.common.errors import Internal, NotFound, PeerUnavailable
from services.common.rpc import from_rpc_error
from tests.common.conftest import JOBS, Start
from tests.common.processes import ServiceProcess
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc

CLAIM = (("weighbridge-caller", "user/mallory"), ("weighbridge-projects", "one,two"))


def get(name: str) -> service_pb2.GetTrainingJobRequest:
    return service_pb2.GetTrainingJobRequest(name=f"{JOBS}/{name}")


def forward(name: str) -> service_pb2.CancelTrainingJobRequest:
    """A request that the first server answers by asking the second."""
    return service_pb2.CancelTrainingJobRequest(name=f"{JOBS}/{name}")


@pytest_asyncio.fixture
async def first_hop(start: Start, shared: ServiceProcess) -> AsyncIterator[Any]:
    """A stub for a server that forwards to `shared` with the gateway's token."""
    first = start("first", SAMPLE_NEXT=shared.address())
    async with connect(first.address(), token="alice-token") as channel:
        yield service_pb2_grpc.TrainingServiceStub(channel)


async def test_the_deadline_reaches_the_second_hop(first_hop: Any) -> None:
    job = await first_hop.CancelTrainingJob(forward("fine"), timeout=30)
    assert 0 < job.metrics["remaining_s"] < 30
    job = await first_hop.CancelTrainingJob(forward("fine"))
    assert job.metrics["remaining_s"] == -1


async def test_caller_and_request_id_reach_the_second_hop(first_hop: Any) -> None:
    request_id = (("x-request-id", "my-id"),)
    job = await first_hop.CancelTrainingJob(forward("fine"), metadata=request_id)
    assert (job.caller, job.display_name) == ("user/alice/research", "my-id")


async def test_what_a_caller_claims_of_itself_does_not_reach_the_second_hop(first_hop: Any) -> None:
    job = await first_hop.CancelTrainingJob(forward("fine"), metadata=CLAIM)
    assert job.caller == "user/alice/research"


@pytest.mark.parametrize(
    ("token", "believed"),
    [
        ("gateway-token", "user/mallory/one,two"),
        ("trainer-token", "trainer/trainer/*"),
        ("alice-token", "user/alice/research"),
    ],
)
async def test_claims_are_believed_from_the_gateway_alone(
    shared: ServiceProcess, token: str, believed: str
) -> None:
    async with connect(shared.address(), token=token) as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        assert (await stub.GetTrainingJob(get("fine"), metadata=CLAIM)).caller == believed


async def test_the_gateway_without_a_claim_speaks_for_itself(shared: ServiceProcess) -> None:
    async with connect(shared.address(), token="gateway-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        assert (await stub.GetTrainingJob(get("fine"))).caller == "gateway/gateway/*"


async def test_a_peers_domain_error_passes_through(first_hop: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await first_hop.CancelTrainingJob(forward("missing"))
    error = from_rpc_error(caught.value)
    assert isinstance(error, NotFound)
    assert error.resource == f"{JOBS}/missing"


async def test_a_peer_that_cannot_be_reached_is_unavailable(start: Start, unused_port: int) -> None:
    first = start("first", SAMPLE_NEXT=f"127.0.0.1:{unused_port}")
    async with connect(first.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CancelTrainingJob(forward("fine"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert isinstance(from_rpc_error(caught.value), PeerUnavailable)


async def test_a_service_whose_own_token_is_refused_reports_a_defect(
    start: Start, shared: ServiceProcess, tmp_path: Path
) -> None:
    (tmp_path / "wrong.token").write_text("not-the-token")
    token_file = str(tmp_path / "wrong.token")
    first = start("first", SAMPLE_NEXT=shared.address(), WEIGHBRIDGE_TOKEN_FILE=token_file)
    async with connect(first.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.CancelTrainingJob(forward("fine"))
    assert isinstance(from_rpc_error(caught.value), Internal)
    assert "refuses this service's own token" in first.log()


async def test_a_call_is_tried_again_while_the_peer_is_unavailable(
    sample: ServiceProcess, own_stub: Any
) -> None:
    await own_stub.GetTrainingJob(get("flaky"))
    assert codes_at_the_end(sample) == ["UNAVAILABLE", "UNAVAILABLE"]


async def test_no_other_status_is_tried_again(sample: ServiceProcess, own_stub: Any) -> None:
    for behaviour in ("missing", "quota", "broken", "verbose"):
        with pytest.raises(grpc.aio.AioRpcError):
            await own_stub.GetTrainingJob(get(behaviour))
    expected = ["NOT_FOUND", "RESOURCE_EXHAUSTED", "INTERNAL", "INVALID_ARGUMENT"]
    assert codes_at_the_end(sample) == expected


def codes_at_the_end(sample: ServiceProcess) -> list[str]:
    """Stop the server, for it logs a call after answering it, and return how calls failed."""
    sample.terminate()
    sample.process.wait()
    return [record["code"] for record in sample.records("call ended")]


@pytest.mark.parametrize(
    "target",
    [
        "node-7:5000",
        "10.0.0.7:5000",
        "dns:///gateway:5000",
        "ipv4:127.0.0.1:1,10.0.0.7:2",
        "127.0.0.1.evil:1",
    ],
)
def test_a_token_does_not_leave_the_machine_in_plaintext(target: str) -> None:
    with pytest.raises(ValueError, match="plaintext"):
        connect(target, token="secret")


@pytest.mark.parametrize(
    "target", ["localhost:1", "127.0.0.1:1", "[::1]:1", "ipv4:127.0.0.1:1,127.0.0.1:2", "dns:///localhost:1"]
)
async def test_a_token_may_go_to_this_machine(target: str) -> None:
    async with connect(target, token="secret") as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.IDLE
