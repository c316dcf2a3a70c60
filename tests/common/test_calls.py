"""Every rule of `calls`, `interception`, `validation` and `auth` as a caller sees it, over a real socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.channels import connect
from services.common.errors import (
    DeadlineExceeded,
    Internal,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    TooLarge,
)
from services.common.rpc import from_rpc_error
from tests.common.conftest import JOBS, SERVICE
from tests.common.processes import ServiceProcess, wait_for
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc


def get(name: str) -> service_pb2.GetTrainingJobRequest:
    return service_pb2.GetTrainingJobRequest(name=f"{JOBS}/{name}")


async def failure(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details(error: grpc.aio.AioRpcError) -> list[AnyMessage]:
    trailers = dict(error.trailing_metadata())
    return list(status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details)


def error_info(error: grpc.aio.AioRpcError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert details(error)[0].Unpack(info)
    return info


@pytest.mark.parametrize("token", [None, "wrong-token", "", "alice-token "])
async def test_a_call_without_a_valid_token_is_unauthenticated(
    shared: ServiceProcess, token: str | None
) -> None:
    async with connect(shared.address(), token=token) as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        error = await failure(stub.GetTrainingJob(get("fine")))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert (error_info(error).reason, error_info(error).domain) == ("UNAUTHENTICATED", "weighbridge")


async def test_streams_need_a_token_too(shared: ServiceProcess) -> None:
    async with connect(shared.address()) as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        watch = stub.WatchTrainingJob(service_pb2.WatchTrainingJobRequest(name=f"{JOBS}/fine"))
        error = await failure(anext(aiter(watch)))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_reflection_needs_a_token_too(shared: ServiceProcess) -> None:
    # Not grpc.aio: its client may report INTERNAL when a call ends before its requests (grpc #36066).
    with grpc.insecure_channel(shared.address()) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.ServerReflectionInfo(requests))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def list_services() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    yield reflection_pb2.ServerReflectionRequest(list_services="")


async def test_reflection_lists_the_services_for_a_caller_who_may(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = [answer async for answer in stub.ServerReflectionInfo(list_services())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {"weighbridge.gateway.v1.TrainingService", "grpc.health.v1.Health"} <= names


async def test_health_is_exempt_from_authentication(shared: ServiceProcess) -> None:
    async with grpc.aio.insecure_channel(shared.address()) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "weighbridge.gateway.v1.TrainingService"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        error = await failure(stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_method_outside_the_table_is_denied(shared: ServiceProcess) -> None:
    async with connect(shared.address(), token="trainer-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        await stub.GetTrainingJob(get("fine"))
        request = service_pb2.CancelTrainingJobRequest(name=f"{JOBS}/fine")
        error = await failure(stub.CancelTrainingJob(request))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    denied = from_rpc_error(error)
    assert isinstance(denied, PermissionDenied)
    assert (denied.identity, denied.method) == ("trainer", f"{SERVICE}/CancelTrainingJob")


async def test_an_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(f"{SERVICE}/NoSuchMethod")
    assert (await failure(call(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_that_breaks_the_contract_names_every_field(stub: Any) -> None:
    request = service_pb2.CreateTrainingJobRequest(parent="nowhere")
    request.spec.labels["No Such Label"] = "x"
    error = await failure(stub.CreateTrainingJob(request))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(error).reason == "INVALID_REQUEST"
    invalid = from_rpc_error(error)
    assert isinstance(invalid, InvalidRequest)
    assert set(invalid.violations) == {
        "parent",
        "spec.task",
        "spec.model",
        "spec.dataset",
        'spec.labels["No Such Label"]',
    }


async def test_each_request_of_a_stream_is_checked(stub: Any) -> None:
    async def chunks() -> AsyncIterator[service_pb2.WriteUploadRequest]:
        yield service_pb2.WriteUploadRequest(offset=0, data=b"abc")
        yield service_pb2.WriteUploadRequest(offset=-1, data=b"def")

    invalid = from_rpc_error(await failure(stub.WriteUpload(chunks())))
    assert isinstance(invalid, InvalidRequest)
    assert list(invalid.violations) == ["offset"]


async def test_all_four_kinds_of_call_pass(stub: Any, channel: grpc.aio.Channel) -> None:
    async def chunks() -> AsyncIterator[service_pb2.WriteUploadRequest]:
        for _ in range(3):
            yield service_pb2.WriteUploadRequest(data=b"abc")

    assert (await stub.GetTrainingJob(get("fine"))).name == f"{JOBS}/fine"
    watch = stub.WatchTrainingJob(service_pb2.WatchTrainingJobRequest(name=f"{JOBS}/fine"))
    assert len([event async for event in watch]) == 2
    assert (await stub.WriteUpload(chunks())).committed_size == 9
    reflected = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(list_services())
    assert len([answer async for answer in reflected]) == 1


async def test_a_domain_error_keeps_its_status_and_fields(stub: Any) -> None:
    error = await failure(stub.GetTrainingJob(get("missing")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    info = error_info(error)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "NOT_FOUND",
        "weighbridge",
        {"resource": f"{JOBS}/missing"},
    )
    assert str(from_rpc_error(error)) == str(NotFound(f"{JOBS}/missing")) == error.details()


async def test_a_domain_error_in_the_middle_of_a_stream_ends_it_with_its_status(stub: Any) -> None:
    watch = stub.WatchTrainingJob(service_pb2.WatchTrainingJobRequest(name=f"{JOBS}/missing"))
    events = aiter(watch)
    await anext(events)
    assert isinstance(from_rpc_error(await failure(anext(events))), NotFound)


async def test_a_quota_says_when_to_come_back(stub: Any) -> None:
    error = await failure(stub.GetTrainingJob(get("quota")))
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in details(error))
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5
    assert dict(error_info(error).metadata) == {"quota": "jobs", "limit": "5"}
    exceeded = from_rpc_error(error)
    assert isinstance(exceeded, QuotaExceeded)
    assert exceeded.retry_after_s == 2.5


async def test_an_unexpected_exception_tells_its_request_id_and_nothing_else(
    sample: ServiceProcess, own_stub: Any
) -> None:
    error = await failure(own_stub.GetTrainingJob(get("broken"), metadata=(("x-request-id", "my-id"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    internal = from_rpc_error(error)
    assert isinstance(internal, Internal)
    assert internal.request_id == "my-id"
    assert "swordfish" not in f"{error.details()} {error.trailing_metadata()} {error.debug_error_string()}"
    (record,) = sample.records("unexpected exception")
    assert record["request_id"] == "my-id"
    assert "ZeroDivisionError: the password is swordfish" in record["exception"]


async def test_a_request_id_that_is_no_plain_id_is_replaced(stub: Any) -> None:
    job = await stub.GetTrainingJob(get("fine"), metadata=(("x-request-id", "a b {c}"),))
    assert len(job.display_name) == 32


async def test_error_details_stay_small_whatever_they_would_say(stub: Any) -> None:
    codes = []
    for _ in range(20):
        error = await failure(stub.GetTrainingJob(get("verbose")))
        codes.append(error.code())
        trailers = dict(error.trailing_metadata())
        assert len(trailers["grpc-status-details-bin"]) < 6 * 1024
    assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}
    invalid = from_rpc_error(error)
    assert isinstance(invalid, InvalidRequest)
    shown = len(invalid.violations) - 1
    assert invalid.violations["…"] == f"and {1000 - shown} more"


async def test_a_message_above_the_limit_is_too_large(stub: Any) -> None:
    request = service_pb2.CheckTrainingJobRequest(parent="x" * (5 << 20))
    error = await failure(stub.CheckTrainingJob(request))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # grpc refuses it before any of our code runs and sends no details: the peer's side reads the text.
    large = from_rpc_error(error)
    assert isinstance(large, TooLarge)
    assert (large.limit, large.actual) == (4 << 20, request.ByteSize())


async def test_a_large_chunk_in_a_stream_is_too_large(stub: Any) -> None:
    async def chunks() -> AsyncIterator[service_pb2.WriteUploadRequest]:
        yield service_pb2.WriteUploadRequest(data=b"x" * (5 << 20))

    assert isinstance(from_rpc_error(await failure(stub.WriteUpload(chunks()))), TooLarge)


async def test_a_passed_deadline_stops_the_work_and_is_no_error_of_the_service(
    sample: ServiceProcess, own_stub: Any, tmp_path: Any
) -> None:
    error = await failure(own_stub.GetTrainingJob(get("slow"), timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(from_rpc_error(error), DeadlineExceeded)
    wait_for((tmp_path / "sample" / "cancelled").exists)
    wait_for(lambda: sample.records("call ended"))
    (record,) = sample.records("call ended")
    assert (record["code"], record["severity"]) == ("DEADLINE_EXCEEDED", "INFO")


async def test_a_caller_who_leaves_is_no_error_of_the_service(sample: ServiceProcess, own_stub: Any) -> None:
    call = own_stub.GetTrainingJob(get("slow"))
    watch = own_stub.WatchTrainingJob(service_pb2.WatchTrainingJobRequest(name=f"{JOBS}/slow"))
    await anext(aiter(watch))
    await asyncio.sleep(0.3)
    call.cancel()
    watch.cancel()
    wait_for(lambda: len(sample.records("call ended")) == 2)
    assert {record["code"] for record in sample.records("call ended")} == {"CANCELLED"}
    assert "ERROR" not in sample.log()
    assert "Traceback" not in sample.log()


async def test_work_that_outlives_its_call_has_no_deadline(own_stub: Any, tmp_path: Any) -> None:
    await own_stub.GetTrainingJob(get("spawned"), timeout=30)
    assert (tmp_path / "sample" / "spawned").read_text() == "None ''"
