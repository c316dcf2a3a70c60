"""What becomes of runs whose node hears no more from the gateway."""

import pytest

from services.common.lease import boottime_s
from services.trainer.runs.directory import RunDirectory
from tests.trainer.harness import LOST, RUNNING, STARTING, SUCCEEDED, Trainer, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

RUN = "runs/a-1"
NEXT = "runs/b-1"
LEASE_S = 3


async def grant(trainer: Trainer, lease_s: int | None) -> None:
    """Grant a lease from the trainer's next report on, and wait for a report after it."""
    trainer.node.lease_s = lease_s
    told = len(trainer.node.reports)
    await eventually(lambda: len(trainer.node.reports) > told + 1)


def keepalive(trainer: Trainer) -> float | None:
    return RunDirectory(trainer.run_dir(RUN)).keepalive_until()


async def test_silence_until_the_end_of_the_lease_stops_runs_and_refuses_new_ones(trainer: Trainer) -> None:
    await grant(trainer, LEASE_S)
    await trainer.run(RUN, ["started"], ["progress", 1000, 0.1])
    await trainer.until(RUN, RUNNING)
    await trainer.node.stop()
    run = await trainer.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert "lease" in run.failure.message
    assert len(run.checkpoints) == 1
    assert trainer.processes(RUN) == []
    assert not await trainer.accepts(NEXT, ["started"], ["succeed"])
    assert not trainer.run_dir(NEXT).exists()
    await trainer.node.start()
    await eventually(lambda: trainer.accepts(NEXT, ["started"], ["succeed"]))
    assert (await trainer.ended(NEXT)).state == SUCCEEDED


async def test_a_run_that_still_waits_for_its_inputs_ends_with_the_lease(trainer: Trainer) -> None:
    await grant(trainer, LEASE_S)
    await trainer.run(RUN, digest=trainer.hanging_blob())
    await trainer.until(RUN, STARTING)
    await trainer.node.stop()
    assert (await trainer.ended(RUN)).state == LOST


async def test_a_restarted_trainer_keeps_to_the_lease_that_it_knew(trainer: Trainer) -> None:
    await grant(trainer, LEASE_S)
    await trainer.run(RUN, ["started"], ["progress", 1000, 0.1])
    await trainer.until(RUN, RUNNING)
    await trainer.kill()
    await trainer.node.stop()
    await trainer.start()
    run = await trainer.ended(RUN)
    assert (run.state, len(run.checkpoints)) == (LOST, 1)


@pytest.mark.parametrize("then_s", [LEASE_S, None], ids=["extended", "fleet of one"])
async def test_a_run_goes_on_past_a_lease_that_did_not_end(trainer: Trainer, then_s: int | None) -> None:
    await grant(trainer, LEASE_S)
    await trainer.run(RUN, ["started"], ["wait_for", "go"], ["succeed"])
    await trainer.until(RUN, RUNNING)
    await eventually(lambda: keepalive(trainer))
    await grant(trainer, then_s)
    end_s = boottime_s() + LEASE_S
    if then_s is None:
        await eventually(lambda: keepalive(trainer) is None)
        await trainer.node.stop()
    # Past whatever was granted before.
    await eventually(lambda: boottime_s() > end_s)
    (trainer.run_dir(RUN) / "go").touch()
    assert (await trainer.ended(RUN)).state == SUCCEEDED


async def test_a_worker_knows_the_lease_before_it_lives(trainer: Trainer) -> None:
    await grant(trainer, 900)
    await trainer.run(RUN, ["started"], ["succeed"])
    await trainer.ended(RUN)
    until_s = keepalive(trainer)
    assert until_s is not None
    assert until_s > boottime_s()
