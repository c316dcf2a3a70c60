"""Cancel at every state: nothing runs afterwards, nothing stays reserved."""

import pytest

from tests.gateway.rig import Rig, State, refused
from weighbridge.gateway.v1 import service_pb2
from weighbridge.trainer.v1 import resources_pb2 as trainer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def assert_cancelled(rig: Rig, name: str) -> None:
    job = await rig.in_state(name)
    assert job.state == State.STATE_CANCELLED
    for node in rig.nodes:
        assert not node.reservations


async def test_while_it_is_weighed(rig: Rig) -> None:
    await rig.node()
    gate = rig.estimator.faults.stop_at("EstimateTraining")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    await assert_cancelled(rig, name)
    gate.open.set()


async def test_while_it_is_queued(rig: Rig) -> None:
    node = await rig.node()
    node.set(ready=False)
    name = await rig.create()
    await rig.in_state(name, State.STATE_QUEUED)
    await rig.cancel(name)
    await assert_cancelled(rig, name)
    assert not (await rig.job(name)).attempts


async def test_before_its_memory_is_reserved(rig: Rig) -> None:
    node = await rig.node()
    gate = node.faults.stop_at("Reserve")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    gate.open.set()
    await assert_cancelled(rig, name)
    assert not node.trainer.starts


async def test_after_its_memory_is_reserved_and_before_that_is_known(rig: Rig) -> None:
    node = await rig.node()
    gate = node.after_reserving.stop_at("Reserve")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    gate.open.set()
    await assert_cancelled(rig, name)
    assert not node.trainer.starts


async def test_while_it_is_started(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.faults.stop_at("StartRun")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    await assert_cancelled(rig, name)
    # The start arrives when the run is cancelled already, and is refused.
    gate.open.set()
    assert not node.trainer.runs


async def test_after_it_was_started(rig: Rig) -> None:
    node = await rig.node()
    gate = node.trainer.after_starting.stop_at("StartRun")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    gate.open.set()
    await assert_cancelled(rig, name)
    assert all(run.ended for run in node.trainer.runs.values())


async def test_while_it_trains_keeps_what_it_writes_on_its_way_out(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    node.trainer.stubborn = True
    await rig.cancel(name)
    await rig.until(lambda: run in node.trainer.cancelled)
    assert (await rig.job(name)).state == State.STATE_CANCELLING
    await node.trainer.checkpoint(run, rig.tree(last=b"words"), 9)
    node.trainer.stubborn = False
    await node.trainer.state(run, trainer_pb2.RUN_STATE_CANCELLED)
    await assert_cancelled(rig, name)
    listed = await rig.alice.ListTrainingCheckpoints(service_pb2.ListTrainingCheckpointsRequest(parent=name))
    assert [point.step for point in listed.checkpoints] == [9]


async def test_a_run_that_succeeded_first_has_succeeded(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    node.trainer.stubborn = True
    await rig.cancel(name)
    await rig.until(lambda: run in node.trainer.cancelled)
    await node.trainer.succeed(run, rig.tree())
    job = await rig.in_state(name)
    assert job.state == State.STATE_SUCCEEDED
    assert job.artifact.digest


async def test_in_a_final_state_it_changes_nothing(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await node.trainer.succeed(run, rig.tree())
    await rig.in_state(name)
    await rig.cancel(name)
    await rig.cancel(name)
    assert (await rig.job(name)).state == State.STATE_SUCCEEDED


async def test_a_cancelled_job_goes_on_from_its_last_checkpoint(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    resume = service_pb2.ResumeTrainingJobRequest(name=name)
    _, run = await rig.training(name)
    assert (await refused(rig.alice.ResumeTrainingJob(resume))).reason == "WRONG_STATE"
    tree = rig.tree(kept=b"state")
    await node.trainer.checkpoint(run, tree, 40)
    await rig.cancel(name)
    await rig.in_state(name)
    job = await rig.alice.ResumeTrainingJob(resume)
    assert job.state == State.STATE_QUEUED
    _, second = await rig.training(name, attempt=2)
    assert node.start_from[second].digest == tree.digest
    assert node.start_from[second].step == 40


async def test_a_job_that_was_never_weighed_cannot_be_resumed(rig: Rig) -> None:
    gate = rig.estimator.faults.stop_at("ResolveSpec")
    name = await rig.create()
    await gate.reached.wait()
    await rig.cancel(name)
    await rig.in_state(name)
    gate.open.set()
    error = await refused(rig.alice.ResumeTrainingJob(service_pb2.ResumeTrainingJobRequest(name=name)))
    assert error.reason == "WRONG_STATE"
    assert "before it was weighed" in str(error)
