"""The service dies and comes back; the machine restarts; the worker dies."""

import json
import shlex
import signal

import psutil
import pytest

from tests.trainer.harness import (
    LOST,
    RUNNING,
    SCRIPTED,
    STARTING,
    SUCCEEDED,
    Trainer,
    eventually,
    refused,
    shape,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"


async def test_a_run_outlives_the_service_and_every_event_is_told_once(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["progress", 60, 0.05], ["save", 60], ["progress", 40], ["succeed"])
    seen = []
    async for event in trainer.watch(RUN):
        seen.append(event)
        if event.progress.step == 10:
            break
    worker = trainer.pid(RUN)
    for _ in range(2):
        await trainer.restart()
    assert (await trainer.get(RUN)).state == RUNNING
    assert trainer.pid(RUN) == worker
    resumed = await trainer.events(RUN, seen[-1].cursor)
    whole = await trainer.events(RUN)
    assert [*seen, *resumed] == whole
    steps = [event.progress.step for event in whole if event.HasField("progress")]
    assert steps == list(range(1, 101))
    assert shape(whole)[-1] == "SUCCEEDED"


async def test_a_watch_goes_on_from_any_cursor(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["progress", 5], ["succeed"])
    whole = await shared.events(name)
    for number, event in enumerate(whole, 1):
        assert await shared.events(name, event.cursor) == whole[number:]
    assert (await shared.get(name)).cursor == whole[-1].cursor
    await shared.run(f"{name}1", ["succeed"])
    other = (await shared.events(f"{name}1"))[0].cursor
    for junk in ("junk", other, "WzEsMl0"):
        async with refused("INVALID_CURSOR"):
            await shared.events(name, junk)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_worker_that_vanishes_is_lost_and_its_memory_free(
    shared: Trainer, name: str, number: int
) -> None:
    await shared.run(name, ["started"], ["progress", 1], ["save", 1], ["die", number])
    run = await shared.ended(name)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert dict(run.failure.metadata) == {"run": name}
    assert f"signal {number}" in run.failure.message
    # Its last checkpoint is there for the next attempt before anybody hears of the loss.
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1]
    assert name not in shared.node.active


async def test_a_worker_that_was_stopped_from_outside_is_lost(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["progress", 1000, 0.1])
    await shared.until(name, RUNNING)
    psutil.Process(shared.pid(name)).terminate()
    run = await shared.ended(name)
    assert run.state == LOST
    assert len(run.checkpoints) == 1


async def test_a_worker_that_dies_while_the_service_is_away_is_lost(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["progress", 1000, 0.1])
    await trainer.until(RUN, RUNNING)
    await trainer.kill()
    psutil.Process(trainer.pid(RUN)).kill()
    await trainer.start()
    assert (await trainer.ended(RUN)).state == LOST
    assert trainer.node.active == set()


async def test_an_outcome_that_came_while_the_service_was_away_is_adopted(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["progress", 3], ["save", 3], ["succeed"])
    await trainer.until(RUN, RUNNING)
    worker = psutil.Process(trainer.pid(RUN))
    await trainer.kill()
    (trainer.run_dir(RUN) / "go").touch()
    await eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    await trainer.start()
    events = shape(await trainer.events(RUN))
    assert [each for each in events if each.startswith("progress")] == [
        "progress 1",
        "progress 2",
        "progress 3",
    ]
    assert set(events[-2:]) >= {"SUCCEEDED"}
    run = await trainer.get(RUN)
    assert run.state == SUCCEEDED
    assert [checkpoint.step for checkpoint in run.checkpoints] == [3]


async def test_a_start_that_was_cut_off_before_the_spawn_goes_on(trainer: Trainer) -> None:
    await trainer.restart(WEIGHBRIDGE_WORKER_COMMAND='["/bin/sh", "-c", "exec sleep 1000"]')
    await trainer.run(RUN, ["started"], ["succeed"])
    await eventually(lambda: trainer.processes(RUN))
    await trainer.kill()
    (sleeper,) = trainer.processes(RUN)
    sleeper.kill()
    del trainer.settings["WEIGHBRIDGE_WORKER_COMMAND"]
    await trainer.start()
    events = shape(await trainer.events(RUN))
    assert (events.count("STARTING"), events[-1]) == (1, "SUCCEEDED")


async def test_of_two_spawned_workers_one_runs(trainer: Trainer) -> None:
    """The service died after it spawned a worker, which claims the run only after the next has."""
    slow = f"while [ ! -s $0/claim ]; do sleep 0.05; done; exec {shlex.join(SCRIPTED)} $0"
    await trainer.restart(WEIGHBRIDGE_WORKER_COMMAND=json.dumps(["/bin/sh", "-c", slow]))
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["succeed"])
    await eventually(lambda: trainer.processes(RUN))
    await trainer.kill()
    del trainer.settings["WEIGHBRIDGE_WORKER_COMMAND"]
    await trainer.start()
    await trainer.until(RUN, RUNNING)
    await eventually(lambda: [each.pid for each in trainer.processes(RUN)] == [trainer.pid(RUN)])
    (trainer.run_dir(RUN) / "go").touch()
    assert shape(await trainer.events(RUN))[-2:] == ["RUNNING", "SUCCEEDED"]


async def test_no_run_survives_the_machine(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["save", 1], ["mark", "saved"], ["sleep", 1000])
    await eventually((trainer.run_dir(RUN) / "saved").exists)
    await trainer.kill()
    for process in trainer.processes(RUN):
        process.kill()
    record = trainer.run_dir(RUN) / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "boot_id": "the one before"}))
    await trainer.start()
    run = await trainer.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert "restarted" in run.failure.message
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1]
    assert trainer.node.active == set()


async def test_an_ended_run_is_released_once_the_node_is_back(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["succeed"])
    await trainer.until(RUN, RUNNING)
    await trainer.node.stop()
    (trainer.run_dir(RUN) / "go").touch()
    assert (await trainer.ended(RUN)).state == SUCCEEDED
    await trainer.kill()
    await trainer.node.start()
    await trainer.start()
    await eventually(lambda: RUN in trainer.node.released)
    assert trainer.node.active == set()


async def test_a_run_that_ended_before_its_node_forgot_is_released_again(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["succeed"])
    await shared.ended(name)
    shared.node.active.add(name)
    await eventually(lambda: name not in shared.node.active)


async def test_two_trainers_do_not_share_a_state_directory(shared: Trainer, name: str) -> None:
    log = await shared.start_another()
    assert "BlockingIOError" in log


async def test_a_journal_that_a_crash_tore_goes_on_from_its_last_whole_line(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["progress", 2], ["wait_for", "go"], ["progress", 2], ["succeed"])
    await trainer.until(RUN, RUNNING)
    await trainer.kill()
    with (trainer.run_dir(RUN) / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"seq": 99, "time": 1, "wor')
    (trainer.run_dir(RUN) / "go").touch()
    await trainer.start()
    steps = [event.progress.step for event in await trainer.events(RUN) if event.HasField("progress")]
    assert steps == [1, 2, 3, 4]


async def test_a_run_that_starts_is_found_again(trainer: Trainer) -> None:
    await trainer.run(RUN, ["wait_for", "go"], ["started"], ["succeed"])
    await trainer.until(RUN, STARTING)
    await trainer.restart()
    (trainer.run_dir(RUN) / "go").touch()
    assert shape(await trainer.events(RUN))[-2:] == ["RUNNING", "SUCCEEDED"]


async def test_workers_end_with_the_service_where_that_is_wanted(trainer: Trainer) -> None:
    await trainer.restart(WEIGHBRIDGE_END_WORKERS="true", WEIGHBRIDGE_GRACE="5")
    await trainer.run(RUN, ["started"], ["progress", 1000, 0.1])
    await trainer.until(RUN, RUNNING)
    await trainer.terminate()
    assert trainer.processes(RUN) == []
    await trainer.start()
    run = await trainer.ended(RUN)
    assert run.state == LOST
    assert len(run.checkpoints) == 1


async def test_a_store_that_hangs_does_not_keep_the_service_from_stopping(trainer: Trainer) -> None:
    await trainer.run(RUN, digest=trainer.hanging_blob())
    await trainer.until(RUN, STARTING)
    await trainer.terminate()
    await trainer.start()
    await trainer.cancel(RUN)
    assert shape(await trainer.events(RUN))[-1] == "CANCELLED"


async def test_a_run_that_cannot_be_read_counts_as_lost(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["progress", 1000, 0.1])
    await trainer.until(RUN, RUNNING)
    await trainer.kill()
    (trainer.run_dir(RUN) / "run.json").write_text("{")
    await trainer.start()
    await eventually(lambda: RUN in trainer.node.released)
    assert trainer.processes(RUN) == []
    async with refused("NOT_FOUND"):
        await trainer.get(RUN)
