import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from services.common.channels import connect
from services.common.errors import Code, InvalidModel, InvalidRequest, InvalidSpec, NotAvailable, ServiceError
from services.common.rpc import from_rpc_error
from services.common.spec_wire import parse_resolved, spec_to_message
from services.common.specs import ModelSource, Task, TrainingSpec
from services.common.wire import to_domain, to_message
from services.hardware.units import GIB
from services.hardware.weighing import Decision, Estimate, Verdict
from tests.common.processes import ServiceProcess, wait_for
from tests.hardware.conftest import Start
from tests.hardware.estimate.models import LLAMA_8B, TINY_VIT
from tests.hardware.samples import DATASET, inventory, node, training_spec
from weighbridge.common.v1 import resolved_spec_pb2
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc


class Caller:
    """Asks an estimator."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub = service_pb2_grpc.EstimatorServiceStub(channel)

    async def resolve(self, spec: TrainingSpec, data: bool = True) -> service_pb2.ResolveSpecResponse:
        request = service_pb2.ResolveSpecRequest(spec=spec_to_message(spec), project="default")
        if data:
            request.dataset.CopyFrom(to_message(DATASET, resolved_spec_pb2.DatasetSummary))
        return await self.stub.ResolveSpec(request)

    async def estimate(self, resolved: bytes) -> resources_pb2.Estimate:
        return await self.stub.EstimateTraining(service_pb2.EstimateTrainingRequest(resolved_spec=resolved))


@pytest.fixture
def caller(estimator_channel: grpc.aio.Channel) -> Caller:
    return Caller(estimator_channel)


async def failure(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


def vit(**config: Any) -> TrainingSpec:
    return training_spec(model=ModelSource(config={**TINY_VIT, **config}))


def child_of(server: ServiceProcess) -> int | None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    found = [int(pid) for pid in children if b"estimate.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found[0] if found else None


async def test_a_spec_is_resolved_estimated_and_weighed(caller: Caller) -> None:
    answer = await caller.resolve(vit())
    resolved = parse_resolved(answer.resolved_spec)
    assert answer.spec_sha256 == hashlib.sha256(answer.resolved_spec).hexdigest()
    assert json.loads(resolved.model.config_json)["hidden_size"] == 32
    found = to_domain(Estimate, await caller.estimate(answer.resolved_spec))
    assert found.placements
    nodes = [to_message(node(inventory(total=size * GIB)), resources_pb2.Node) for size in (16, 1)]
    request = service_pb2.WeighNodesRequest(
        resolved_spec=answer.resolved_spec, estimate=to_message(found, resources_pb2.Estimate), nodes=nodes
    )
    verdicts = [to_domain(Verdict, v) for v in (await caller.stub.WeighNodes(request)).verdicts]
    assert [verdict.decision for verdict in verdicts] == [Decision.ADMIT, Decision.REJECT]


async def test_an_8b_model_is_weighed_without_its_memory(caller: Caller, estimator: ServiceProcess) -> None:
    spec = training_spec(task=Task.SFT, model=ModelSource(config=LLAMA_8B))
    answer = await caller.resolve(spec, data=False)
    assert "usual sizes were assumed" in answer.warnings[0]
    found = to_domain(Estimate, await caller.estimate(answer.resolved_spec))
    assert found.parameter_count == 8_030_261_248
    status = await asyncio.to_thread(Path(f"/proc/{child_of(estimator)}/status").read_text)
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak_kib < 4 * 1024 * 1024


async def test_what_is_wrong_with_a_spec_arrives_typed(caller: Caller) -> None:
    error = await failure(caller.resolve(vit(hiden_size=8)))
    assert isinstance(error, InvalidSpec)
    assert (error.field, error.value) == ("model.config.hiden_size", "8")
    assert isinstance(await failure(caller.resolve(vit(model_type="vitt"))), InvalidModel)
    assert isinstance(await failure(caller.estimate(b"no spec")), InvalidRequest)


async def test_the_serving_process_stays_without_torch(caller: Caller, estimator: ServiceProcess) -> None:
    await caller.resolve(vit())
    maps = await asyncio.to_thread(Path(f"/proc/{estimator.process.pid}/maps").read_text)
    assert "libtorch" not in maps
    environment = await asyncio.to_thread(Path(f"/proc/{child_of(estimator)}/environ").read_bytes)
    # It reads what strangers wrote, so it is told nothing that would be worth stealing.
    assert b"TOKEN" not in environment
    assert b"IDENTITIES" not in environment


async def test_a_child_that_dies_takes_its_request_along_and_no_other(
    caller: Caller, estimator: ServiceProcess
) -> None:
    await caller.resolve(vit())
    before = child_of(estimator)
    assert before is not None
    asked = asyncio.ensure_future(caller.resolve(vit(num_hidden_layers=100_000)))
    await asyncio.sleep(0.5)
    waiting = asyncio.ensure_future(caller.resolve(vit()))
    os.kill(before, signal.SIGKILL)
    error = await failure(asked)
    # Not UNAVAILABLE: the channel would feed the same spec to the next child by itself.
    assert (error.reason, error.code) == ("ESTIMATE_FAILED", Code.INTERNAL)
    assert (await waiting).resolved_spec
    assert child_of(estimator) not in (before, None)


async def test_a_request_that_a_dying_child_never_read_goes_to_the_next(
    caller: Caller, estimator: ServiceProcess
) -> None:
    await caller.resolve(vit())
    before = child_of(estimator)
    assert before is not None
    os.kill(before, signal.SIGSTOP)
    asked = asyncio.ensure_future(caller.resolve(vit()))
    await asyncio.sleep(0.2)
    os.kill(before, signal.SIGKILL)
    assert (await asked).resolved_spec


async def test_a_spec_that_takes_for_ever_is_given_up(start: Start) -> None:
    server = start("slow", WEIGHBRIDGE_ROLES="estimator", WEIGHBRIDGE_ESTIMATE_TIMEOUT="3")
    async with connect(server.address(), token="gateway-token") as channel:
        error = await failure(Caller(channel).resolve(vit(num_hidden_layers=10_000_000)))
        assert error.reason == "ESTIMATE_FAILED"
        assert "took longer than 3 s" in str(error)


async def test_a_caller_who_leaves_does_not_shift_the_answers(caller: Caller) -> None:
    leaving = asyncio.ensure_future(caller.resolve(vit(hidden_size=64)))
    await asyncio.sleep(0.01)
    leaving.cancel()
    answers = await asyncio.gather(*(caller.resolve(vit(num_hidden_layers=n)) for n in (1, 2, 3)))
    configs = [json.loads(parse_resolved(a.resolved_spec).model.config_json) for a in answers]
    assert [config["num_hidden_layers"] for config in configs] == [1, 2, 3]


def test_the_child_does_not_outlive_its_service(start: Start) -> None:
    server = start("mortal", WEIGHBRIDGE_ROLES="estimator")
    wait_for(lambda: child_of(server))
    child = Path(f"/proc/{child_of(server)}")
    server.kill()
    wait_for(lambda: not child.exists())


async def test_what_comes_later_says_so(caller: Caller) -> None:
    spec = spec_to_message(vit())
    for call in (
        caller.stub.RecommendPlans(service_pb2.RecommendPlansRequest(spec=spec)),
        caller.stub.RecommendModels(service_pb2.RecommendModelsRequest(task=1)),
        caller.stub.FindLargestFeasible(service_pb2.FindLargestFeasibleRequest(spec=spec, field="seed")),
        caller.stub.ReportOutcome(service_pb2.ReportOutcomeRequest(outcome={"run": "runs/a-1"})),
        caller.stub.ListOutcomes(service_pb2.ListOutcomesRequest()),
    ):
        error = await failure(call)
        assert isinstance(error, NotAvailable)
        assert "this version" in str(error)
