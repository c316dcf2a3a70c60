"""Cancelling, at every state: afterwards nothing runs and nothing stays reserved."""

import asyncio

import psutil
import pytest

from tests.trainer.harness import (
    ACCEPTED,
    CANCELLED,
    CANCELLING,
    RUNNING,
    STARTING,
    SUCCEEDED,
    Trainer,
    eventually,
    refused,
    shape,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"
ENDLESS = (["started"], ["progress", 100000, 0.05])


async def is_over(trainer: Trainer, name: str) -> None:
    """Check that nothing of the run is left."""
    assert (await trainer.ended(name)).state == CANCELLED
    assert trainer.processes(name) == []
    assert name not in trainer.node.active
    assert name in trainer.node.released


async def test_cancelling_what_never_came_refuses_it_later(trainer: Trainer) -> None:
    assert (await trainer.cancel(RUN)).state == CANCELLED
    await trainer.restart()
    async with refused("STALE_ATTEMPT"):
        await trainer.run(RUN, *ENDLESS)
    assert trainer.node.activations == []


async def test_a_run_that_waits_for_its_node_is_cancelled(trainer: Trainer) -> None:
    await trainer.node.stop()
    async with refused("PEER_UNAVAILABLE"):
        await trainer.run(RUN, *ENDLESS)
    assert (await trainer.cancel(RUN)).state == CANCELLING
    assert shape(await trainer.events(RUN)) == ["ACCEPTED", "CANCELLING", "CANCELLED"]
    await trainer.node.start()
    await eventually(lambda: RUN in trainer.node.released)


async def test_a_run_is_cancelled_while_it_is_being_started(shared: Trainer, name: str) -> None:
    activating, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        activating.set()
        await go_on.wait()

    shared.node.before_activation[name] = hold
    starting = asyncio.create_task(shared.run(name, *ENDLESS))
    await activating.wait()
    assert (await shared.get(name)).state == ACCEPTED
    assert (await shared.cancel(name)).state == CANCELLING
    go_on.set()
    assert (await starting).state in (CANCELLING, CANCELLED)
    await is_over(shared, name)


async def test_a_run_is_cancelled_before_its_worker_has_a_handler(trainer: Trainer) -> None:
    await trainer.restart(WEIGHBRIDGE_WORKER_COMMAND='["/bin/sh", "-c", "exec sleep 1000"]')
    await trainer.run(RUN, *ENDLESS)
    await eventually(lambda: trainer.processes(RUN))
    await trainer.cancel(RUN)
    await is_over(trainer, RUN)


async def test_a_training_run_saves_and_stops(shared: Trainer, name: str) -> None:
    await shared.run(name, *ENDLESS)
    await shared.until(name, RUNNING)
    assert (await shared.cancel(name)).state == CANCELLING
    events = shape(await shared.events(name))
    assert events[-1] == "CANCELLED"
    assert events.index("CANCELLING") < next(i for i, each in enumerate(events) if "checkpoint" in each)
    await is_over(shared, name)


async def test_cancelling_twice_is_cancelling_once(shared: Trainer, name: str) -> None:
    await shared.run(name, *ENDLESS)
    await shared.until(name, RUNNING)
    await asyncio.gather(*(shared.cancel(name) for _ in range(5)))
    events = shape(await shared.events(name))
    assert (await shared.cancel(name)).state == CANCELLED
    assert (events.count("CANCELLING"), events.count("CANCELLED")) == (1, 1)


async def test_an_ended_run_stays_what_it_is(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["succeed"])
    await shared.ended(name)
    assert (await shared.cancel(name)).state == SUCCEEDED


async def test_a_success_that_came_first_stays_one(shared: Trainer, name: str) -> None:
    await shared.run(
        name, ["started"], ["ignore_sigterm"], ["mark", "deaf"], ["wait_for", "cancel"], ["succeed"]
    )
    await eventually((shared.run_dir(name) / "deaf").exists)
    await shared.cancel(name)
    assert shape(await shared.events(name))[-2:] == ["CANCELLING", "SUCCEEDED"]


async def test_a_failure_while_cancelling_is_a_cancellation(shared: Trainer, name: str) -> None:
    script = (["started"], ["ignore_sigterm"], ["mark", "deaf"], ["wait_for", "cancel"], ["fail", "BAD_DATA"])
    await shared.run(name, *script)
    await eventually((shared.run_dir(name) / "deaf").exists)
    await shared.cancel(name)
    assert shape(await shared.events(name))[-2:] == ["CANCELLING", "CANCELLED"]


@pytest.mark.parametrize("detached", [False, True])
async def test_a_deaf_worker_is_killed_with_its_children(shared: Trainer, name: str, detached: bool) -> None:
    await shared.run(name, ["started"], ["ignore_sigterm"], ["give_birth", detached], ["sleep", 1000])
    await eventually(lambda: len(shared.processes(name)) == 3)
    await shared.cancel(name, grace_s=0.5)
    await is_over(shared, name)


async def test_children_that_outlive_their_leader_are_killed(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["give_birth"], ["wait_for", "go"], ["succeed"])
    await eventually(lambda: len(shared.processes(name)) == 3)
    (shared.run_dir(name) / "go").touch()
    assert (await shared.ended(name)).state == SUCCEEDED
    assert shared.processes(name) == []


async def test_a_shorter_grace_overrules_a_longer_one(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["ignore_sigterm"], ["mark", "deaf"], ["sleep", 1000])
    await eventually((shared.run_dir(name) / "deaf").exists)
    await shared.cancel(name, grace_s=1000)
    await shared.cancel(name, grace_s=0)
    await is_over(shared, name)


async def test_a_stopped_worker_is_killed_too(shared: Trainer, name: str) -> None:
    await shared.run(name, *ENDLESS)
    await shared.until(name, RUNNING)
    psutil.Process(shared.pid(name)).suspend()
    await shared.cancel(name, grace_s=0.3)
    await is_over(shared, name)


async def test_an_intent_survives_the_service(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["ignore_sigterm"], ["mark", "deaf"], ["sleep", 1000])
    await eventually((trainer.run_dir(RUN) / "deaf").exists)
    await trainer.cancel(RUN, grace_s=1.0)
    await trainer.restart()
    await is_over(trainer, RUN)
    await trainer.restart()
    await is_over(trainer, RUN)


async def test_inputs_are_not_waited_for(shared: Trainer, name: str) -> None:
    await shared.run(name, digest=shared.hanging_blob())
    await shared.until(name, STARTING)
    await shared.cancel(name)
    await is_over(shared, name)
