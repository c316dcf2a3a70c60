"""What holds for every engine: a run is the same run, whatever its worker is."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from tests.trainer.engines.conftest import variables
from tests.trainer.engines.dockerd import Dockerd
from tests.trainer.harness import CANCELLED, LOST, RUNNING, SCRIPTED, Trainer, eventually, shape, trainer_at

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"
ENDLESS = (["started"], ["progress", 100000, 0.05])


@pytest_asyncio.fixture(loop_scope="module", params=["process", "docker"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Trainer]:
    """A trainer of the test's own, with each engine in turn."""
    settings = {}
    if request.param == "docker":
        daemon: Dockerd = request.getfixturevalue("daemon")
        settings = variables(daemon)
    async with trainer_at(tmp_path, **settings) as started:
        yield started


def kill_processes(trainer: Trainer) -> None:
    """Kill the run's processes, of which some may take others along."""
    for process in trainer.processes(RUN):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


async def test_a_run_outlives_the_service(either: Trainer) -> None:
    await either.run(
        RUN, ["started"], ["progress", 20, 0.1], ["say", "half\n"], ["wait_for", "go"], ["succeed"]
    )
    await either.until(RUN, RUNNING)
    await either.restart()
    (either.run_dir(RUN) / "go").touch()
    events = await either.events(RUN)
    assert [event.progress.step for event in events if event.HasField("progress")] == list(range(1, 21))
    assert shape(events)[-1] == "SUCCEEDED"
    assert (either.run_dir(RUN) / "worker.log").read_text() == "half\n"
    assert either.processes(RUN) == []


async def test_an_outcome_that_came_while_the_service_was_away_is_adopted(either: Trainer) -> None:
    await either.run(RUN, ["started"], ["wait_for", "go"], ["progress", 2], ["save", 2], ["succeed"])
    await either.until(RUN, RUNNING)
    await either.kill()
    (either.run_dir(RUN) / "go").touch()
    await eventually(lambda: either.processes(RUN) == [])
    await either.start()
    assert shape(await either.events(RUN))[-1] == "SUCCEEDED"
    assert [checkpoint.step for checkpoint in (await either.get(RUN)).checkpoints] == [2]


async def test_a_worker_that_dies_while_the_service_is_away_is_lost(either: Trainer) -> None:
    await either.run(RUN, *ENDLESS)
    await either.until(RUN, RUNNING)
    await either.kill()
    kill_processes(either)
    await either.start()
    assert (await either.ended(RUN)).state == LOST
    assert either.node.active == set()


@pytest.mark.parametrize("number", [9, 11])
async def test_how_a_worker_vanished_is_told(either: Trainer, number: int) -> None:
    await either.run(RUN, ["started"], ["save", 1], ["die", number])
    run = await either.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert f"signal {number}" in run.failure.message
    assert [checkpoint.step for checkpoint in run.checkpoints] == [1]


async def test_a_cancelled_run_saves_and_stops(either: Trainer) -> None:
    await either.run(RUN, *ENDLESS)
    await either.until(RUN, RUNNING)
    await either.cancel(RUN)
    run = await either.ended(RUN)
    assert run.state == CANCELLED
    assert len(run.checkpoints) == 1
    assert either.processes(RUN) == []


@pytest.mark.parametrize("detached", [False, True])
async def test_a_deaf_worker_is_killed_with_its_children(either: Trainer, detached: bool) -> None:
    await either.run(RUN, ["started"], ["ignore_sigterm"], ["give_birth", detached], ["sleep", 1000])
    await eventually((either.run_dir(RUN) / "child").exists)
    await either.cancel(RUN, grace_s=0.3)
    assert (await either.ended(RUN)).state == CANCELLED
    assert either.processes(RUN) == []
    assert either.node.active == set()


async def test_a_start_that_was_cut_off_before_the_claim_goes_on(either: Trainer) -> None:
    await either.restart(WEIGHBRIDGE_WORKER_COMMAND=json.dumps(["/bin/sh", "-c", "exec sleep 1000"]))
    await either.run(RUN, ["started"], ["succeed"])
    await eventually(lambda: either.processes(RUN))
    await either.kill()
    kill_processes(either)
    await either.start(WEIGHBRIDGE_WORKER_COMMAND=json.dumps(SCRIPTED))
    events = shape(await either.events(RUN))
    assert (events.count("STARTING"), events[-1]) == (1, "SUCCEEDED")


async def test_a_run_whose_directory_cannot_be_read_is_ended_all_the_same(either: Trainer) -> None:
    await either.run(RUN, *ENDLESS)
    await either.until(RUN, RUNNING)
    await either.kill()
    (either.run_dir(RUN) / "run.json").write_text("{")
    await either.start()
    await eventually(lambda: RUN in either.node.released)
    assert either.processes(RUN) == []
