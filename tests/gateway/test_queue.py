"""Who goes first, who may overtake, and what those who wait are told."""

import pytest

from tests.gateway.fake_node import FakeNode
from tests.gateway.rig import Rig, State
from weighbridge.gateway.v1 import resources_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def waiting(rig: Rig, name: str, position: int) -> str:
    """Wait until a job has a position in the queue; return what it is told."""

    async def told() -> str:
        conditions = (await rig.job(name)).conditions
        found = [each.message for each in conditions if each.position == position]
        return found[0] if found else ""

    return await rig.until(told)


async def test_a_job_that_does_not_fit_beside_another_waits_and_then_runs(rig: Rig) -> None:
    node = await rig.node(capacity_bytes=100)
    first = await rig.create(need=60)
    _, run = await rig.training(first)
    second = await rig.create(need=60)
    assert run in await waiting(rig, second, 1)
    assert (await rig.job(second)).state == State.STATE_QUEUED
    await node.trainer.succeed(run, rig.tree())
    await rig.training(second)
    assert len((await rig.job(second)).attempts) == 1


async def test_two_jobs_that_fit_together_run_together(rig: Rig) -> None:
    node = await rig.node(capacity_bytes=100)
    for name in [await rig.create(need=50), await rig.create(need=50)]:
        await rig.training(name)
    assert len(node.reservations) == 2


async def test_priority_goes_before_age(rig: Rig) -> None:
    node = await rig.node(capacity_bytes=100)
    running = await rig.create(need=100)
    _, run = await rig.training(running)
    old, young, urgent = [await rig.create(need=100, priority=priority) for priority in (0, 0, 5)]
    await waiting(rig, urgent, 1)
    await waiting(rig, old, 2)
    assert urgent in await waiting(rig, young, 3)
    for name in (urgent, old, young):
        await node.trainer.succeed(run, rig.tree())
        _, run = await rig.training(name)


async def test_a_small_job_does_not_overtake_where_the_one_ahead_could_run(rig: Rig) -> None:
    await rig.node(capacity_bytes=100)
    await rig.training(await rig.create(need=60))
    large = await rig.create(need=80)
    await waiting(rig, large, 1)
    small = await rig.create(need=10)
    assert large in await waiting(rig, small, 2)
    assert (await rig.job(small)).state == State.STATE_QUEUED


async def test_a_small_job_overtakes_on_a_node_too_small_for_those_ahead(rig: Rig) -> None:
    await rig.node("large", 100)
    small_node = await rig.node("small", 20)
    await rig.training(await rig.create(need=60))
    large = await rig.create(need=80)
    await waiting(rig, large, 1)
    small = await rig.create(need=10)
    found, _ = await rig.training(small)
    assert found is small_node


async def test_the_tightest_node_is_chosen(rig: Rig) -> None:
    for name, capacity in (("loose", 100), ("tight", 40), ("small", 20)):
        await rig.node(name, capacity)
    found, _ = await rig.training(await rig.create(need=30))
    assert found.name == "nodes/tight"


async def test_a_node_that_refuses_after_all_is_not_the_end(rig: Rig) -> None:
    tight, loose = await rig.node("tight", 40), await rig.node("loose", 100)
    gate = tight.faults.stop_at("Reserve")
    name = await rig.create(need=30)
    await gate.reached.wait()
    # Since its last report somebody else has taken the memory.
    tight.capacity_bytes = 30
    tight.reservations["runs/foreign-1"] = reservation(20)
    gate.open.set()
    found, _ = await rig.training(name, attempt=2)
    assert found is loose
    assert [attempt.node for attempt in (await rig.job(name)).attempts] == [loose.name]


def reservation(size_bytes: int) -> hardware_pb2.Reservation:
    amount = hardware_pb2.DeviceAmount(device="host", reserved_bytes=size_bytes)
    return hardware_pb2.Reservation(run="runs/foreign-1", amounts=[amount])


async def test_a_node_that_takes_no_jobs_is_named(rig: Rig) -> None:
    node = await rig.node()
    node.set(ready=False)
    name = await rig.create()
    message = await waiting(rig, name, 1)
    assert "no trainer has reported itself" in message
    node.set(ready=True)
    await rig.training(name)
    assert resources_pb2.CONDITION_TYPE_WAITING not in [
        each.type for each in (await rig.job(name)).conditions
    ]


async def test_many_jobs_share_a_node_without_overbooking_it(rig: Rig) -> None:
    node = await rig.node(capacity_bytes=100)
    names = [await rig.create(need=30) for _ in range(6)]
    done: set[str] = set()
    while len(done) < len(names):
        held = sum(amount.reserved_bytes for each in node.reservations.values() for amount in each.amounts)
        assert held <= 100
        for name in names:
            run = f"runs/{name.rpartition('/')[2]}-1"
            if run in node.trainer.runs and name not in done:
                await node.trainer.succeed(run, rig.tree())
                done.add(name)
        await rig.until(lambda: len(done) == len(names) or has_new(node, done))
    for name in names:
        assert (await rig.in_state(name)).state == State.STATE_SUCCEEDED


def has_new(node: FakeNode, done: set[str]) -> bool:
    return len(node.trainer.runs) > len(done)
