"""What a watcher sees: everything, once, in order, from wherever it goes on."""

import asyncio

import pytest

from tests.gateway.rig import Caller, Rig, State, refused
from weighbridge.gateway.v1 import resources_pb2
from weighbridge.trainer.v1 import resources_pb2 as trainer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


def kept(events: list[resources_pb2.JobEvent]) -> list[str]:
    """Return the kinds of the events that are kept, each with its state or step."""
    return [
        f"{event.WhichOneof('event')} {event.checkpoint.step or event.evaluation.step}"
        for event in events
        if event.WhichOneof("event") in ("checkpoint", "evaluation", "notice")
    ]


def states(events: list[resources_pb2.JobEvent]) -> list[int]:
    """Return the states of a job in the order seen, each once."""
    seen: list[int] = []
    for event in events[1:]:
        if event.HasField("job") and event.job.state not in seen[-1:]:
            seen.append(event.job.state)
    return seen


async def busy(rig: Rig, name: str) -> None:
    """Let all kinds of things happen to a job, and succeed."""
    node, run = await rig.training(name)
    for step in (1, 2):
        await node.trainer.progress(run, step)
        await node.trainer.runs[run].say(
            evaluation=trainer_pb2.Evaluation(step=step, metrics={"accuracy": 0.5 * step})
        )
        await node.trainer.checkpoint(run, rig.tree(step=str(step).encode()), step)
    await node.trainer.runs[run].say(notice=trainer_pb2.Notice(message="sdpa was chosen"))
    await node.trainer.succeed(run, rig.tree())
    await rig.in_state(name)


HAPPENED = ["evaluation 1", "checkpoint 1", "evaluation 2", "checkpoint 2", "notice 0"]
PASSED = [
    State.STATE_PENDING,
    State.STATE_WEIGHING,
    State.STATE_QUEUED,
    State.STATE_STARTING,
    State.STATE_RUNNING,
    State.STATE_SUCCEEDED,
]


async def test_a_live_watch_ends_with_the_job(rig: Rig) -> None:
    await rig.node()
    name = await rig.create()
    events: list[resources_pb2.JobEvent] = []

    async def watch() -> None:
        async for event in rig.alice.watch(name):
            events.append(event)

    watching = asyncio.create_task(watch())
    await busy(rig, name)
    await watching
    assert events[0].job.name == name
    assert kept(events) == HAPPENED
    assert states(events) == PASSED
    assert events[-1].job.state == State.STATE_SUCCEEDED
    assert events[-1].job.metrics["accuracy"] == 1.0


async def test_progress_comes_live_whole_and_in_order(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    watch = rig.alice.watch(name)
    seen = []
    steps = list(range(2, 80, 2))
    async for event in watch:
        if event.HasField("job") and event.job.state == State.STATE_RUNNING and steps:
            for step in steps:
                await node.trainer.progress(run, step)
            steps = []
            await node.trainer.succeed(run, rig.tree())
        if event.HasField("progress"):
            seen.append(event.progress.step)
    assert seen == list(range(2, 80, 2))
    assert event.job.state == State.STATE_SUCCEEDED


async def test_a_watch_goes_on_after_any_event_without_a_gap(rig: Rig) -> None:
    await rig.node()
    name = await rig.create()
    await busy(rig, name)
    whole = [event async for event in rig.alice.watch(name)]
    assert kept(whole) == HAPPENED
    for index, event in enumerate(whole):
        rest = [later async for later in rig.alice.watch(name, event.cursor)]
        assert [each.cursor for each in rest[1:]] == [each.cursor for each in whole[index + 1 :]]


async def test_a_watch_goes_on_at_a_gateway_that_was_killed(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    cursor = ""
    seen: list[int] = []

    async def until_step(step: int) -> None:
        nonlocal cursor
        async for event in rig.alice.watch(name, cursor):
            cursor = event.cursor
            if event.HasField("checkpoint"):
                seen.append(event.checkpoint.step)
                if event.checkpoint.step == step:
                    return

    await node.trainer.checkpoint(run, rig.tree(a=b"1"), 1)
    await until_step(1)
    await rig.kill_gateway()
    await node.trainer.checkpoint(run, rig.tree(a=b"2"), 2)
    await rig.start_gateway()
    await node.trainer.checkpoint(run, rig.tree(a=b"3"), 3)
    await until_step(3)
    assert seen == [1, 2, 3]


async def test_a_watch_crosses_attempts(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await node.trainer.lose(run)
    _, run = await rig.training(name, attempt=2)
    await node.trainer.succeed(run, rig.tree())
    await rig.in_state(name)
    events = [event async for event in rig.alice.watch(name)]
    assert states(events) == [
        *PASSED[:5],
        State.STATE_QUEUED,
        State.STATE_STARTING,
        State.STATE_RUNNING,
        PASSED[5],
    ]
    assert {event.attempt for event in events} == {0, 1, 2}
    retrying = [each for event in events for each in event.job.conditions]
    assert resources_pb2.CONDITION_TYPE_RETRYING in [each.type for each in retrying]


async def test_preparations_are_conditions(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.run_of(name)
    doing = trainer_pb2.Preparation(
        phase=trainer_pb2.START_PHASE_FETCHING_WEIGHTS, done_bytes=5, total_bytes=9
    )
    await node.trainer.runs[run].say(preparation=doing)

    async def told() -> bool:
        wanted = resources_pb2.CONDITION_TYPE_DOWNLOADING_WEIGHTS
        return any((each.type, each.done_bytes) == (wanted, 5) for each in (await rig.job(name)).conditions)

    await rig.until(told)


async def test_a_cursor_of_another_job_is_refused(rig: Rig) -> None:
    first, second = await rig.create(), await rig.create()
    watch = rig.alice.watch(first)
    cursor = (await anext(watch)).cursor
    await watch.aclose()
    assert (await refused(first_event(rig.alice, second, cursor))).reason == "INVALID_CURSOR"
    assert (await refused(first_event(rig.alice, first, "made up"))).reason == "INVALID_CURSOR"


async def first_event(caller: Caller, name: str, cursor: str) -> resources_pb2.JobEvent:
    return await anext(caller.watch(name, cursor))
