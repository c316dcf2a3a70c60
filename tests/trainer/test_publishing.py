"""A checkpoint is public once it is in the store: once, whoever dies in between."""

import pytest

from tests.trainer.harness import FAILED, RUNNING, Trainer, eventually, shape
from weighbridge.trainer.v1 import service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"


def told(events: list[str]) -> list[str]:
    return [each for each in events if each.startswith("checkpoint")]


async def test_checkpoints_are_listed_oldest_first(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], *(["save", step] for step in (5, 10, 15)), ["succeed"])
    await shared.ended(name)
    request = service_pb2.ListCheckpointsRequest(parent=name)
    listed = (await shared.stub.ListCheckpoints(request)).checkpoints
    assert [(each.step, each.epoch) for each in listed] == [(5, 0.5), (10, 1.0), (15, 1.5)]
    fetched = shared.directory / "fetched"
    shared.store.fetch_tree(listed[1].digest, fetched)
    assert shared.files(str(fetched)) == {"weights": "weights of step 10"}


async def test_the_node_keeps_the_newest_checkpoint_only(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["save", 1], ["save", 2], ["wait_for", "go"], ["succeed"])
    local = shared.run_dir(name) / "checkpoints"
    await eventually(lambda: [path.name for path in local.glob("step-*")] == ["step-00000002"])


async def test_a_checkpoint_is_told_once_however_often_the_service_dies(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["save", 1], ["progress", 1], ["wait_for", "go"], ["succeed"])
    await eventually(lambda: trainer.public(RUN, "checkpoint"))
    for _ in range(2):
        await trainer.restart()
    (trainer.run_dir(RUN) / "go").touch()
    assert told(shape(await trainer.events(RUN))) == ["checkpoint 1"]


async def test_a_checkpoint_that_the_store_did_not_take_is_put_after_a_restart(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["save", 1], ["progress", 2], ["sleep", 1000])
    await trainer.until(RUN, RUNNING)
    trainer.break_store()
    (trainer.run_dir(RUN) / "go").touch()
    await eventually(lambda: trainer.public(RUN, "progress", 2))
    await trainer.kill()
    trainer.mend_store()
    assert trainer.public(RUN, "checkpoint") == []
    await trainer.start()
    await eventually(lambda: trainer.public(RUN, "checkpoint"))
    await trainer.cancel(RUN)
    assert told(shape(await trainer.events(RUN)))[0] == "checkpoint 1"


async def test_a_checkpoint_without_its_event_is_published_when_the_worker_is_gone(
    shared: Trainer, name: str
) -> None:
    await shared.run(name, ["started"], ["save", 1], ["save", 2, False], ["die"])
    assert told(shape(await shared.events(name))) == ["checkpoint 1", "checkpoint 2"]


async def test_a_half_written_checkpoint_is_dropped(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["save", 1], ["mark", "saved"], ["wait_for", "go"], ["die"])
    await eventually((shared.run_dir(name) / "saved").exists)
    draft = shared.run_dir(name) / "checkpoints" / ".draft"
    draft.mkdir()
    (draft / "weights").write_text("half")
    (shared.run_dir(name) / "go").touch()
    assert told(shape(await shared.events(name))) == ["checkpoint 1"]


async def test_a_checkpoint_that_vanished_is_remarked_upon(shared: Trainer, name: str) -> None:
    line = '{"time": 1, "type": "checkpoint", "step": 8, "epoch": 1, "path": "checkpoints/step-00000008"}\n'
    await shared.run(name, ["started"], ["write", line], ["succeed"])
    events = await shared.events(name)
    assert told(shape(events)) == []
    assert any("step 8 was not published" in event.notice.message for event in events)


async def test_an_artifact_waits_for_the_store(trainer: Trainer) -> None:
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["succeed"])
    await trainer.until(RUN, RUNNING)
    trainer.break_store()
    (trainer.run_dir(RUN) / "go").touch()
    await eventually(lambda: trainer.public(RUN, "notice"))
    assert (await trainer.get(RUN)).state == RUNNING
    trainer.mend_store()
    assert (await trainer.ended(RUN)).artifact.size_bytes == 3_000_002


async def test_a_link_in_an_artifact_is_refused(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["link_artifact"], ["succeed"])
    run = await shared.ended(name)
    assert (run.state, run.failure.metadata["type"]) == (FAILED, "InvalidArtifact")
