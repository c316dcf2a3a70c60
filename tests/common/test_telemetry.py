"""Traces arrive at a real OTLP receiver, across two services."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio

from services.common.channels import connect
from tests.common.conftest import JOBS, Start
from weighbridge.gateway.v1 import service_pb2, service_pb2_grpc

collector = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
collector_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")


class Receiver(collector_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return collector.ExportTraceServiceResponse()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[tuple[Receiver, str]]:
    servicer, server = Receiver(), grpc.aio.server()
    collector_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    await server.stop(None)


async def test_a_call_and_the_call_it_makes_are_one_trace(
    start: Start, receiver: tuple[Receiver, str]
) -> None:
    servicer, endpoint = receiver
    second = start("second", WEIGHBRIDGE_OTLP_ENDPOINT=endpoint)
    first = start("first", WEIGHBRIDGE_OTLP_ENDPOINT=endpoint, SAMPLE_NEXT=second.address())
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    metadata = (("traceparent", f"00-{trace}-{parent}-01"),)
    async with connect(first.address(), token="alice-token") as channel:
        stub = service_pb2_grpc.TrainingServiceStub(channel)
        request = service_pb2.CancelTrainingJobRequest(name=f"{JOBS}/missing")
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.CancelTrainingJob(request, metadata=metadata)
    for sample in (first, second):
        sample.terminate()
    for sample in (first, second):
        await asyncio.to_thread(sample.process.wait)
    spans = {span.name.rpartition("/")[2]: span for span in servicer.spans}
    assert {span.trace_id.hex() for span in spans.values()} == {trace}
    assert spans["CancelTrainingJob"].parent_span_id.hex() == parent
    assert spans["GetTrainingJob"].parent_span_id == spans["CancelTrainingJob"].span_id
    assert {record["trace_id"] for record in second.records("call ended")} == {trace}
