"""kill -9 of the gateway at every point of a job's life: one run in the end, nothing lost, nothing twice."""

import pytest

from services.common.errors import ApprovalRefused, PeerUnavailable
from tests.gateway.fake_node import FakeNode
from tests.gateway.rig import Rig, State
from weighbridge.gateway.v1 import resources_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def finish(rig: Rig, name: str, attempt: int = 1) -> resources_pb2.TrainingJob:
    """Have a job succeed, and return it."""
    node, run = await rig.training(name, attempt)
    await node.trainer.succeed(run, rig.tree())
    return await rig.in_state(name)


async def test_killed_while_resolving_it_resolves_again_and_keeps_the_first_bytes(rig: Rig) -> None:
    await rig.node()
    gate = rig.estimator.faults.stop_at("ResolveSpec")
    name = await rig.create()
    await gate.reached.wait()
    await rig.kill_gateway()
    gate.open.set()
    await rig.start_gateway()
    job = await finish(rig, name)
    assert job.state == State.STATE_SUCCEEDED


async def test_killed_while_estimating_it_does_not_resolve_again(rig: Rig) -> None:
    await rig.node()
    gate = rig.estimator.faults.stop_at("EstimateTraining")
    name = await rig.create()
    await gate.reached.wait()
    before = (await rig.job(name)).spec_sha256
    await rig.kill_gateway()
    gate.open.set()
    await rig.start_gateway()
    job = await finish(rig, name)
    assert before
    assert job.spec_sha256 == before


async def test_killed_between_choosing_and_reserving_it_asks_the_same_node(rig: Rig) -> None:
    chosen = await rig.node("small", 20)
    gate = chosen.faults.stop_at("Reserve")
    name = await rig.create(need=10)
    await gate.reached.wait()
    await rig.kill_gateway()
    other = await rig_node_while_down(rig)
    await rig.start_gateway()
    gate.open.set()
    job = await finish(rig, name)
    assert [attempt.node for attempt in job.attempts] == [chosen.name]
    assert not other.reserved


async def rig_node_while_down(rig: Rig) -> FakeNode:
    node = FakeNode("nodes/tighter", 10)
    rig.nodes.append(node)
    await node.start()
    node.join(f"127.0.0.1:{rig.port}", "node-token")
    return node


async def test_killed_between_reserving_and_starting_there_is_one_run(rig: Rig) -> None:
    node = await rig.node()
    gate = node.after_reserving.stop_at("Reserve")
    name = await rig.create()
    await gate.reached.wait()
    await rig.kill_gateway()
    gate.open.set()
    assert len(node.reservations) == 1
    await rig.start_gateway()
    job = await finish(rig, name)
    assert len(job.attempts) == 1
    assert list(node.trainer.runs) == [f"runs/{name.rpartition('/')[2]}-1"]


async def test_killed_before_the_start_arrived_it_starts_once(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.faults.stop_at("StartRun")
    name = await rig.create()
    await gate.reached.wait()
    await rig.kill_gateway()
    await rig.start_gateway()
    gate.open.set()
    job = await finish(rig, name)
    assert len(job.attempts) == 1
    assert len(node.trainer.runs) == 1


async def test_killed_after_the_start_arrived_it_finds_the_run(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.after_starting.stop_at("StartRun")
    name = await rig.create()
    await gate.reached.wait()
    await rig.kill_gateway()
    gate.open.set()
    await rig.start_gateway()
    job = await finish(rig, name)
    assert len(job.attempts) == 1
    assert len(node.trainer.starts) == 1


async def test_a_reservation_that_lapsed_meanwhile_is_made_again(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.faults.stop_at("StartRun")
    name = await rig.create()
    await gate.reached.wait()
    run = node.reserved[0]
    await rig.kill_gateway()
    node.expire(run)
    node.trainer.faults.refuse("StartRun", ApprovalRefused(run, "its reservation lapsed"))
    await rig.start_gateway()
    job = await finish(rig, name)
    gate.open.set()
    assert len(job.attempts) == 1
    assert node.reserved == [run, run]
    assert node.trainer.starts[-1].approval.token == "signed 2"


async def test_a_lapsed_reservation_whose_memory_is_gone_ends_the_attempt(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.faults.stop_at("StartRun")
    name = await rig.create(need=60)
    await gate.reached.wait()
    run = node.reserved[0]
    await rig.kill_gateway()
    node.expire(run)
    node.set(capacity_bytes=70)
    node.reservations["runs/foreign-1"] = foreign(60)
    node.trainer.faults.refuse("StartRun", ApprovalRefused(run, "its reservation lapsed"))
    await rig.start_gateway()
    await rig.until(lambda: node.released.get(name.rpartition("/")[2]) == 1)
    await rig.in_state(name, State.STATE_QUEUED)
    node.reservations.pop("runs/foreign-1")
    node.set(capacity_bytes=100)
    job = await finish(rig, name, attempt=2)
    gate.open.set()
    assert job.attempts[0].failure.reason == "START_REFUSED"


def foreign(size_bytes: int) -> hardware_pb2.Reservation:
    amount = hardware_pb2.DeviceAmount(device="host", reserved_bytes=size_bytes)
    return hardware_pb2.Reservation(
        run="runs/foreign-1", state=hardware_pb2.RESERVATION_STATE_HELD, amounts=[amount]
    )


async def test_killed_while_a_run_ends_it_reads_the_end_afterwards(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await rig.kill_gateway()
    await node.trainer.checkpoint(run, rig.tree(step=b"5"), 5)
    await node.trainer.succeed(run, rig.tree())
    await rig.start_gateway()
    job = await rig.in_state(name)
    assert job.state == State.STATE_SUCCEEDED
    assert len(node.trainer.starts) == 1


async def test_a_cancel_that_was_answered_is_carried_out_after_a_kill(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    node.trainer.faults.refuse("CancelRun", *[PeerUnavailable("the trainer")] * 40)
    await rig.cancel(name)
    await rig.kill_gateway()
    node.trainer.faults.clear()
    await rig.start_gateway()
    job = await rig.in_state(name)
    assert job.state == State.STATE_CANCELLED
    assert node.trainer.cancelled[-1] == run
    assert not node.reservations
