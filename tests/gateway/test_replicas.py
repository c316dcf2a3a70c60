"""Two gateways on one ledger: either serves, one dispatches."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.gateway.archives import archive, good
from tests.gateway.rig import Caller, Rig, State, chunks, free_port
from tests.gateway.test_uploads import begin, finish
from weighbridge.gateway.v1 import service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


@pytest_asyncio.fixture(loop_scope="package")
async def second(rig: Rig) -> AsyncIterator[Caller]:
    """Alice at a second gateway."""
    port = free_port()
    await rig.start_gateway("second", port)
    yield rig.caller("alice", port)
    if "second" in rig.processes:
        await rig.kill_gateway("second")


def reigns(rig: Rig, name: str) -> list[int]:
    """Return the epochs in which a gateway dispatched."""
    return [record["epoch"] for record in rig.processes[name].records("dispatching")]


async def test_one_of_two_dispatches(rig: Rig, second: Caller) -> None:
    node = await rig.node()
    for caller in (rig.alice, second):
        await rig.training(await rig.create(caller))
    # Which of them it is may change, where a busy machine holds one up: no epoch is ever that of two.
    epochs = [epoch for name in ("gateway", "second") for epoch in reigns(rig, name)]
    assert len(set(epochs)) == len(epochs) > 0
    assert len(node.trainer.runs) == 2


async def test_the_other_takes_over_from_one_that_was_killed(rig: Rig, second: Caller) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await rig.kill_gateway()
    await rig.until(lambda: reigns(rig, "second"))
    await node.trainer.succeed(run, rig.tree())
    get = service_pb2.GetTrainingJobRequest(name=name)

    async def succeeded() -> bool:
        return (await second.GetTrainingJob(get)).state == State.STATE_SUCCEEDED

    assert await rig.until(succeeded)
    await rig.start_gateway()


async def test_a_watch_at_either_sees_what_the_other_dispatches(rig: Rig, second: Caller) -> None:
    node = await rig.node()
    name = await rig.create(second)
    seen = []

    async def watch() -> None:
        async for event in second.watch(name):
            seen.append(event)

    watching = asyncio.create_task(watch())
    _, run = await rig.training(name)
    await node.trainer.progress(run, 10)
    await rig.until(lambda: [event for event in seen if event.progress.step == 10])
    await node.trainer.succeed(run, rig.tree())
    await watching
    assert seen[-1].job.state == State.STATE_SUCCEEDED


async def test_an_upload_goes_on_at_the_other(rig: Rig, second: Caller) -> None:
    data = archive(good(count=9))
    name = await begin(rig, "across", len(data))
    await rig.alice.WriteUpload(chunks(name, data[:900]))
    await second.WriteUpload(chunks(name, data, start=900))
    made = await asyncio.gather(
        rig.alice.FinishUpload(finish(name, data)), second.FinishUpload(finish(name, data))
    )
    assert made[0] == made[1]


async def test_creates_at_both_with_one_request_id_make_one_job(rig: Rig, second: Caller) -> None:
    callers = [rig.alice, second] * 4
    names = await asyncio.gather(*(rig.create(caller, request_id="both") for caller in callers))
    assert len(set(names)) == 1
