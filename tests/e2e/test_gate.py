"""No path leads round the gate: what was not approved, exactly as it is, does not start."""

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status

from tests.e2e.conftest import MakePlatform
from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from weighbridge.common.v1.training_spec_pb2 import TrainingSpec
from weighbridge.hardware.v1.resources_pb2 import Approval, Estimate, Reservation
from weighbridge.hardware.v1.service_pb2 import (
    EstimateTrainingRequest,
    ListReservationsRequest,
    ReleaseReservationRequest,
    ReserveRequest,
    ResolveSpecRequest,
)
from weighbridge.hardware.v1.service_pb2_grpc import EstimatorServiceStub, NodeServiceStub
from weighbridge.trainer.v1.resources_pb2 import Run, RunState
from weighbridge.trainer.v1.service_pb2 import GetRunRequest, ListRunsRequest, StartRunRequest
from weighbridge.trainer.v1.service_pb2_grpc import TrainerServiceStub


@dataclasses.dataclass
class Gate:
    """Node and trainer as the gateway calls them."""

    platform: Platform
    node: Any
    estimator: Any
    trainer: Any

    def resolve(self, spec: TrainingSpec) -> bytes:
        dataset = self.platform.client.datasets.get("shapes").summary
        request = ResolveSpecRequest(spec=spec, dataset=dataset)
        return bytes(self.platform.call("gateway", self.estimator.ResolveSpec, request).resolved_spec)

    def estimate(self, resolved: bytes) -> Estimate:
        request = EstimateTrainingRequest(resolved_spec=resolved)
        estimate: Estimate = self.platform.call("gateway", self.estimator.EstimateTraining, request)
        return estimate

    def reserve(self, run: str, resolved: bytes, estimate: Estimate) -> Approval:
        request = ReserveRequest(run=run, resolved_spec=resolved, estimate=estimate)
        approval: Approval = self.platform.call("gateway", self.node.Reserve, request).approval
        return approval

    def start(self, run: str, approval: Approval, resolved: bytes, identity: str = "gateway") -> Run:
        request = StartRunRequest(run=run, approval=approval, resolved_spec=resolved, project="default")
        started: Run = self.platform.call(identity, self.trainer.StartRun, request)
        return started

    def refused(self, run: str, approval: Approval, resolved: bytes) -> None:
        """Assert that a start is refused, and that nothing runs."""
        with pytest.raises(grpc.RpcError) as caught:
            self.start(run, approval, resolved)
        assert reason(caught.value) == "APPROVAL_REFUSED"
        live = (RunState.RUN_STATE_STARTING, RunState.RUN_STATE_RUNNING)
        runs = self.platform.call("gateway", self.trainer.ListRuns, ListRunsRequest()).runs
        assert not [each.name for each in runs if each.name == run and each.state in live]

    def run(self, run: str) -> Run:
        found: Run = self.platform.call("gateway", self.trainer.GetRun, GetRunRequest(name=run))
        return found

    def reservations(self) -> list[Reservation]:
        request = ListReservationsRequest()
        return list(self.platform.call("gateway", self.node.ListReservations, request).reservations)


def reason(error: grpc.RpcError) -> str:
    """Return the reason that a failed call carries."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(info)
    return info.reason


@pytest.fixture(scope="module")
def gate(make_platform: MakePlatform) -> Iterator[Gate]:
    """Return the gate of a node whose held reservations lapse after two seconds."""
    platform = make_platform(WEIGHBRIDGE_HELD_TTL="2")
    with platform.channel("hardware") as hardware, platform.channel("trainer") as trainer:
        yield Gate(
            platform, NodeServiceStub(hardware), EstimatorServiceStub(hardware), TrainerServiceStub(trainer)
        )


@pytest.fixture(scope="module")
def resolved(gate: Gate) -> bytes:
    return gate.resolve(gate.platform.client.spec(tiny_vit()))


@pytest.fixture(scope="module")
def estimate(gate: Gate, resolved: bytes) -> Estimate:
    return gate.estimate(resolved)


def test_a_start_without_an_approval_is_refused(gate: Gate, resolved: bytes) -> None:
    digest = hashlib.sha256(resolved).hexdigest()
    made_up = Approval(run="runs/none-1", node="nodes/local", spec_sha256=digest, token="e30.e30.e30")
    gate.refused("runs/none-1", made_up, resolved)


def test_a_caller_who_is_not_the_gateway_cannot_start_a_run(
    gate: Gate, resolved: bytes, estimate: Estimate
) -> None:
    approval = gate.reserve("runs/stranger-1", resolved, estimate)
    with pytest.raises(grpc.RpcError) as caught:
        gate.start("runs/stranger-1", approval, resolved, identity="user")
    assert reason(caught.value) == "PERMISSION_DENIED"


def test_an_approval_for_another_spec_is_refused(gate: Gate, resolved: bytes, estimate: Estimate) -> None:
    approval = gate.reserve("runs/spec-1", resolved, estimate)
    other = gate.resolve(gate.platform.client.spec(tiny_vit(seed=7)))
    gate.refused("runs/spec-1", approval, other)


def test_an_approval_for_another_run_is_refused(gate: Gate, resolved: bytes, estimate: Estimate) -> None:
    approval = gate.reserve("runs/mine-1", resolved, estimate)
    gate.refused("runs/other-1", approval, resolved)


def test_an_approval_of_another_node_is_refused(
    gate: Gate, resolved: bytes, estimate: Estimate, make_platform: MakePlatform
) -> None:
    elsewhere = make_platform(WEIGHBRIDGE_HELD_TTL="60")
    with elsewhere.channel("hardware") as channel:
        request = ReserveRequest(run="runs/node-1", resolved_spec=resolved, estimate=estimate)
        foreign = elsewhere.call("gateway", NodeServiceStub(channel).Reserve, request).approval
    elsewhere.stop()
    gate.refused("runs/node-1", foreign, resolved)


def test_an_approval_that_has_expired_is_refused(gate: Gate, resolved: bytes, estimate: Estimate) -> None:
    approval = gate.reserve("runs/late-1", resolved, estimate)
    time.sleep(max(0.0, approval.expire_time.ToSeconds() - time.time()) + 1)
    gate.refused("runs/late-1", approval, resolved)


def test_an_approval_starts_one_run_once(gate: Gate, resolved: bytes, estimate: Estimate) -> None:
    approval = gate.reserve("runs/once-1", resolved, estimate)
    first = gate.start("runs/once-1", approval, resolved)
    assert gate.start("runs/once-1", approval, resolved).create_time == first.create_time
    eventually(lambda: gate.run("runs/once-1").state == RunState.RUN_STATE_SUCCEEDED)
    gate.refused("runs/once-2", approval, resolved)
    assert gate.start("runs/once-1", approval, resolved).state == RunState.RUN_STATE_SUCCEEDED


def test_a_released_attempt_can_never_have_memory_again(
    gate: Gate, resolved: bytes, estimate: Estimate
) -> None:
    gate.platform.call("gateway", gate.node.ReleaseReservation, ReleaseReservationRequest(run="runs/gone-2"))
    for run in ("runs/gone-1", "runs/gone-2"):
        with pytest.raises(grpc.RpcError) as caught:
            gate.reserve(run, resolved, estimate)
        assert reason(caught.value) == "STALE_ATTEMPT"


def test_a_run_that_outgrows_its_reservation_fails_alone(
    gate: Gate, resolved: bytes, estimate: Estimate
) -> None:
    neighbour = gate.platform.client.train(tiny_vit(training={"max_steps": 120}))
    eventually(lambda: neighbour.refresh().message.progress.step > 0)
    small = Estimate()
    small.CopyFrom(estimate)
    for placement in small.placements:
        # Less than the libraries alone take.
        placement.host.peak_reserved_bytes = 0
        placement.host.margin_bytes = 0
        placement.host.context_bytes = 200 << 20
    approval = gate.reserve("runs/greedy-1", resolved, small)
    gate.start("runs/greedy-1", approval, resolved)
    run = eventually(
        lambda: (found := gate.run("runs/greedy-1")).state == RunState.RUN_STATE_FAILED and found
    )
    assert run.failure.reason == "MEMORY_OVERRUN"
    assert int(run.failure.metadata["limit_bytes"]) == 200 << 20
    assert int(run.failure.metadata["actual_bytes"]) > 200 << 20
    assert int(run.failure.metadata["predicted_bytes"]) > 0
    neighbour.wait()
    assert neighbour.state == "SUCCEEDED"
    eventually(lambda: not gate.reservations())


def test_nothing_of_a_refused_start_is_left(gate: Gate) -> None:
    runs = gate.platform.home.state_dir("trainer") / "runs"
    assert not [path.name for path in runs.iterdir() if gate.platform.holds_alive(path)]
