"""Runs whose workers are containers: how they end, and what they survive."""

import asyncio
import json
import signal

import pytest

from tests.trainer.engines.dockerd import Dockerd
from tests.trainer.harness import (
    CANCELLED,
    FAILED,
    LOST,
    RUNNING,
    STARTING,
    SUCCEEDED,
    Trainer,
    eventually,
    shape,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"
ENDLESS = (["started"], ["progress", 100000, 0.05])


@pytest.mark.parametrize("child", [False, True])
async def test_a_run_that_goes_past_its_memory_is_told_its_limit(contained: Trainer, child: bool) -> None:
    """Also where a loader's process was killed, which its parent would call an error of training."""
    take = ["child_takes_memory", 3 << 30] if child else ["take_memory", 3 << 30]
    await contained.run(RUN, ["started"], take, ["fail", "TRAINING_ERROR"])
    run = await contained.ended(RUN)
    assert (run.state, run.failure.reason) == (FAILED, "MEMORY_OVERRUN")
    assert run.failure.metadata["limit_bytes"] == str(2 << 30)
    assert run.failure.metadata["device"] == "host"
    assert "more than 2,048 MiB" in run.failure.message


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_container_is_removed_once_its_run_has_ended(
    contained: Trainer, daemon: Dockerd, cancelled: bool
) -> None:
    await contained.run(RUN, ["started"], ["wait_for", "go"], ["succeed"])
    await contained.until(RUN, RUNNING)
    assert len(daemon.containers()) == 1
    if cancelled:
        await contained.cancel(RUN)
    else:
        (contained.run_dir(RUN) / "go").touch()
    assert (await contained.ended(RUN)).state == (CANCELLED if cancelled else SUCCEEDED)
    await eventually(lambda: daemon.containers() == [])


@pytest.mark.parametrize("place", ["", "127.0.0.1:1/worker@"])
async def test_an_image_that_cannot_be_had_is_named(contained: Trainer, place: str) -> None:
    image = f"{place}sha256:" + "1" * 64
    await contained.restart(WEIGHBRIDGE_DOCKER_IMAGE=image)
    await contained.run(RUN, *ENDLESS)
    run = await contained.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert "no container could be started" in run.failure.message
    # A registry that does not answer names itself.
    assert (place.partition("/")[0] or image) in run.failure.message


async def test_a_command_that_the_image_lacks_is_in_the_log(contained: Trainer) -> None:
    await contained.restart(WEIGHBRIDGE_WORKER_COMMAND=json.dumps(["no-such-python"]))
    await contained.run(RUN, *ENDLESS)
    run = await contained.ended(RUN)
    assert "exit status 127" in run.failure.message
    assert "no-such-python" in (contained.run_dir(RUN) / "worker.log").read_text()


async def test_the_node_hears_what_the_image_can_import(contained: Trainer) -> None:
    await eventually(lambda: contained.node.reports)
    software = contained.node.reports[-1].software
    assert list(software.packages) == ["json"]
    assert "ModuleNotFoundError" in software.import_errors["no_such_package"]


async def test_a_run_outlives_a_daemon_that_keeps_its_containers(contained: Trainer, daemon: Dockerd) -> None:
    await contained.run(RUN, ["started"], ["progress", 5], ["wait_for", "go"], ["progress", 5], ["succeed"])
    await contained.until(RUN, RUNNING)
    for number in (signal.SIGTERM, signal.SIGKILL):
        await asyncio.to_thread(daemon.stop, number)
        await asyncio.to_thread(daemon.start, "--live-restore")
    await asyncio.to_thread(daemon.stop)
    # Its worker ends while there is no daemon to ask: the run waits for it.
    (contained.run_dir(RUN) / "go").touch()
    await eventually(lambda: contained.processes(RUN) == [])
    assert (await contained.get(RUN)).state == RUNNING
    await asyncio.to_thread(daemon.start, "--live-restore")
    events = await contained.events(RUN)
    assert [event.progress.step for event in events if event.HasField("progress")] == list(range(1, 11))
    assert shape(events)[-1] == "SUCCEEDED"


async def test_a_daemon_that_takes_its_containers_along_costs_no_step(
    contained: Trainer, daemon: Dockerd
) -> None:
    """It ends them as an administrator would: the worker saves, and the next attempt goes on from there."""
    await asyncio.to_thread(daemon.stop)
    await asyncio.to_thread(daemon.start)
    try:
        await contained.run(RUN, *ENDLESS)
        await contained.until(RUN, RUNNING)
        await asyncio.to_thread(daemon.stop)
        assert contained.processes(RUN) == []
    finally:
        await asyncio.to_thread(daemon.start, "--live-restore")
    run = await contained.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert len(run.checkpoints) == 1
    assert contained.node.active == set()


async def test_a_run_waits_for_its_daemon(contained: Trainer, daemon: Dockerd) -> None:
    await asyncio.to_thread(daemon.stop)
    try:
        await contained.run(RUN, ["started"], ["succeed"])
        await contained.until(RUN, STARTING)
        await eventually(lambda: "the Docker daemon at unix" in contained.logs())
    finally:
        await asyncio.to_thread(daemon.start, "--live-restore")
    assert shape(await contained.events(RUN))[-1] == "SUCCEEDED"


async def test_what_an_image_can_import_is_not_remembered_from_a_daemon_that_was_away(
    contained: Trainer, daemon: Dockerd
) -> None:
    await contained.kill()
    (contained.state / "capabilities.json").unlink(missing_ok=True)
    contained.node.reports.clear()
    await asyncio.to_thread(daemon.stop)
    try:
        await contained.start()
        await eventually(lambda: "Docker daemon" in contained.logs())
        assert contained.node.reports == []
    finally:
        await asyncio.to_thread(daemon.start, "--live-restore")
    await eventually(lambda: contained.node.reports)
    assert list(contained.node.reports[-1].software.packages) == ["json"]
