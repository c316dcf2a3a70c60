"""Lost workers, refused starts, an estimator that dies: what is tried again, and when it is enough."""

import pytest

from services.common.errors import (
    ApprovalRefused,
    Code,
    InvalidModel,
    InvalidSpec,
    PeerUnavailable,
    RemoteError,
)
from tests.gateway.rig import Rig, State
from weighbridge.gateway.v1 import resources_pb2, service_pb2
from weighbridge.trainer.v1 import resources_pb2 as trainer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_lost_worker_goes_on_as_the_next_attempt_from_the_last_committed_checkpoint(rig: Rig) -> None:
    node = await rig.node()
    await rig.node("other", 100)
    name = await rig.create()
    first, run = await rig.training(name)
    tree = rig.tree(state=b"at 30")
    await first.trainer.checkpoint(run, tree, 30)
    await first.trainer.lose(run)
    second, again = await rig.training(name, attempt=2)
    assert second is first, "the same node is preferred"
    assert second.start_from[again].digest == tree.digest
    job = await rig.job(name)
    assert job.attempts[0].failure.reason == "WORKER_LOST"
    assert job.attempts[0].state == trainer_pb2.RUN_STATE_LOST
    assert node in rig.nodes


async def test_more_losses_than_the_retry_limit_fail_the_job(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(retry_limit=1)
    for attempt in (1, 2):
        _, run = await rig.training(name, attempt)
        await node.trainer.lose(run)
    job = await rig.in_state(name)
    assert job.failure.reason == "RETRIES_EXHAUSTED"
    assert dict(job.failure.metadata) == {"attempts": "2", "retry_limit": "1"}
    assert not node.reservations


async def test_attempts_that_never_trained_cost_no_retry(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(retry_limit=0)
    _, run = await rig.run_of(name)
    await node.trainer.lose(run)
    await rig.training(name, attempt=2)


async def test_a_resumed_job_has_its_retries_again(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(retry_limit=0)
    _, run = await rig.training(name)
    await node.trainer.lose(run)
    assert (await rig.in_state(name)).state == State.STATE_FAILED
    job = await rig.alice.ResumeTrainingJob(service_pb2.ResumeTrainingJobRequest(name=name))
    assert not job.HasField("failure")
    _, run = await rig.training(name, attempt=2)
    await node.trainer.succeed(run, rig.tree())
    assert (await rig.in_state(name)).state == State.STATE_SUCCEEDED


async def test_a_refused_start_is_asked_for_afresh_and_then_given_up(rig: Rig) -> None:
    node = await rig.node()
    refusal = ApprovalRefused("runs/x-1", "the clock is wrong")
    node.trainer.faults.refuse("StartRun", refusal, refusal)
    name = await rig.create()
    await rig.training(name, attempt=2)
    job = await rig.job(name)
    assert job.attempts[0].failure.reason == "START_REFUSED"
    assert "the clock is wrong" in job.attempts[0].failure.message
    assert node.released[name.rpartition("/")[2]] == 1


async def test_a_trainer_that_is_down_is_waited_for_and_its_memory_stays(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    node.trainer.faults.refuse("WatchRun", *[PeerUnavailable("the trainer")] * 500)
    node.trainer.faults.refuse("GetRun", *[PeerUnavailable("the trainer")] * 500)
    # The stream that is open ends with the trainer.
    await node.fall_silent()
    await node.start()
    node.join(f"127.0.0.1:{rig.port}", "node-token")

    async def told() -> bool:
        return any(
            each.type == resources_pb2.CONDITION_TYPE_TRAINER_DOWN
            for each in (await rig.job(name)).conditions
        )

    await rig.until(told)
    assert run in node.reservations
    node.trainer.faults.clear()
    await rig.until(lambda: no_conditions(rig, name))
    await node.trainer.succeed(run, rig.tree())
    job = await rig.in_state(name)
    assert job.state == State.STATE_SUCCEEDED
    assert len(job.attempts) == 1


async def no_conditions(rig: Rig, name: str) -> bool:
    return not (await rig.job(name)).conditions


async def test_a_run_that_its_trainer_forgot_is_lost(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    node.trainer.runs.clear()
    await node.fall_silent()
    await node.start()
    node.join(f"127.0.0.1:{rig.port}", "node-token")
    await rig.training(name, attempt=2)
    assert (await rig.job(name)).attempts[0].failure.reason == "WORKER_LOST"
    assert run not in node.reservations


async def test_the_third_death_of_the_estimate_fails_the_job(rig: Rig) -> None:
    died = RemoteError("ESTIMATE_FAILED", Code.INTERNAL, "its process ended with status -9")
    rig.estimator.faults.refuse("EstimateTraining", died, died, died)
    job = await rig.in_state(await rig.create())
    assert job.state == State.STATE_FAILED
    assert job.failure.reason == "ESTIMATE_FAILED"
    assert job.failure.metadata["tries"] == "3"


async def test_two_deaths_of_the_estimate_do_not(rig: Rig) -> None:
    died = RemoteError("ESTIMATE_FAILED", Code.INTERNAL, "its process ended with status -9")
    rig.estimator.faults.refuse("ResolveSpec", died, died)
    await rig.in_state(await rig.create(), State.STATE_QUEUED)


async def test_an_estimator_that_is_away_is_waited_for(rig: Rig) -> None:
    rig.estimator.faults.refuse("ResolveSpec", *[PeerUnavailable("the estimator")] * 9)
    name = await rig.create()

    async def told() -> bool:
        wanted = resources_pb2.CONDITION_TYPE_ESTIMATOR_UNAVAILABLE
        return any(each.type == wanted for each in (await rig.job(name)).conditions)

    await rig.until(told)
    rig.estimator.faults.clear()
    await rig.in_state(name, State.STATE_QUEUED)


@pytest.mark.parametrize(
    "error",
    [InvalidSpec("lora.r", 0, "must be at least 1"), InvalidModel("vitt", "no such architecture: vit?")],
)
async def test_what_the_resolver_finds_wrong_fails_the_job_with_that_reason(
    rig: Rig, error: InvalidSpec | InvalidModel
) -> None:
    rig.estimator.faults.refuse("ResolveSpec", error)
    job = await rig.in_state(await rig.create())
    assert job.failure.reason == error.reason
    assert job.failure.message == str(error)
    assert dict(job.failure.metadata) == error.metadata


async def test_a_checkpoint_that_the_store_does_not_have_is_not_committed(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    whole, gone = rig.tree(a=b"whole"), rig.tree(a=b"gone")
    rig.store.delete(gone.digest)
    await node.trainer.checkpoint(run, whole, 1)
    await node.trainer.checkpoint(run, gone, 2)
    await node.trainer.lose(run)
    _, again = await rig.run_of(name, attempt=2)
    assert node.start_from[again].step == 1


async def test_only_the_newest_checkpoints_are_kept(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    trees = [rig.tree(state=f"at {step}".encode(), same=b"in all") for step in (1, 2, 3)]
    for step, tree in enumerate(trees, 1):
        await node.trainer.checkpoint(run, tree, step)
    asked = service_pb2.ListTrainingCheckpointsRequest(parent=name)

    async def steps() -> list[int]:
        return [point.step for point in (await rig.alice.ListTrainingCheckpoints(asked)).checkpoints]

    await rig.until(lambda: equal(steps(), [2, 3]))
    blobs = {file.path: file.digest for file in trees[0].files}
    await rig.until(lambda: not rig.store.exists(blobs["state"]))
    assert rig.store.exists(blobs["same"]), "the other checkpoints need it"


async def equal(found: object, wanted: list[int]) -> bool:
    return await found == wanted  # type: ignore[misc]
