"""Starting a run: only what was approved, exactly once, whoever dies or asks again."""

import asyncio
import dataclasses
from typing import Any

import pytest

from services.common.errors import ApprovalRefused, Code, NoReservation
from services.common.spec_wire import parse_resolved, serialize_resolved
from tests.trainer.fake_node import NODE, approval
from tests.trainer.harness import (
    ACCEPTED,
    CANCELLED,
    LOST,
    RUNNING,
    STARTING,
    Trainer,
    eventually,
    refused,
    shape,
)
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"
WAITING = (["started"], ["wait_for", "go"], ["succeed"])


async def test_without_an_approval_nothing_starts(trainer: Trainer) -> None:
    spec = trainer.spec(["succeed"])
    async with refused("INVALID_REQUEST"):
        await trainer.start_run(RUN, spec, None)
    async with refused("APPROVAL_REFUSED", Code.FAILED_PRECONDITION):
        await trainer.start_run(RUN, spec, hardware_pb2.Approval())
    await nothing_is_left(trainer, RUN)


@pytest.mark.parametrize(
    "signed", [{"node": "nodes/other"}, {"run": "runs/b-1"}, {"spec_sha256": "0" * 64}, {"exp": 1.0}]
)
async def test_an_approval_of_something_else_is_refused(
    shared: Trainer, name: str, signed: dict[str, Any]
) -> None:
    spec = shared.spec(["succeed"])
    async with refused("APPROVAL_REFUSED"):
        await shared.start_run(name, spec, approval(name, spec, **signed))
    # Nor does it help to correct the copies that nobody signed.
    corrected = approval(name, spec, **signed)
    corrected.MergeFrom(
        hardware_pb2.Approval(node=NODE, run=name, spec_sha256=approval(name, spec).spec_sha256)
    )
    async with refused("APPROVAL_REFUSED"):
        await shared.start_run(name, spec, corrected)
    await nothing_is_left(shared, name)


@pytest.mark.parametrize("token", ["", "junk", "a.b.c", "e30.e30.", "e30.W10.x"])
async def test_a_token_that_is_none_is_refused(shared: Trainer, name: str, token: str) -> None:
    spec = shared.spec(["succeed"])
    changed = approval(name, spec)
    changed.token = token
    async with refused("APPROVAL_REFUSED"):
        await shared.start_run(name, spec, changed)
    await nothing_is_left(shared, name)


async def test_bytes_that_are_no_spec_are_refused(shared: Trainer, name: str) -> None:
    async with refused("INVALID_REQUEST"):
        await shared.start_run(name, b"\xff\xff", approval(name, b"\xff\xff"))
    await nothing_is_left(shared, name)


async def nothing_is_left(trainer: Trainer, name: str) -> None:
    assert name not in trainer.node.activations
    assert not trainer.run_dir(name).exists()
    async with refused("NOT_FOUND"):
        await trainer.get(name)


async def test_what_the_node_refuses_ends_lost_and_leaves_nothing(shared: Trainer, name: str) -> None:
    shared.node.refusals[name] = ApprovalRefused(name, "it has expired")
    for _ in range(2):
        async with refused("APPROVAL_REFUSED") as refusal:
            await shared.run(name, ["succeed"])
        assert refusal.metadata == {"run": name, "detail": "it has expired"}
    run = await shared.get(name)
    assert (run.state, run.failure.reason) == (LOST, "START_REFUSED")
    assert shared.node.activations.count(name) == 1
    assert name in shared.node.released
    assert not (shared.run_dir(name) / "worker.log").exists()


async def test_a_run_without_a_reservation_is_refused(shared: Trainer, name: str) -> None:
    shared.node.refusals[name] = NoReservation(name)
    async with refused("APPROVAL_REFUSED"):
        await shared.run(name, ["succeed"])


async def test_a_repeated_start_is_the_same_run(shared: Trainer, name: str) -> None:
    spec = shared.spec(*WAITING)
    starts = [shared.start_run(name, spec, approval(name, spec)) for _ in range(8)]
    assert {run.name for run in await asyncio.gather(*starts)} == {name}
    await shared.until(name, RUNNING)
    assert (await shared.start_run(name, spec, approval(name, spec))).state == RUNNING
    assert shared.node.activations.count(name) == 1
    assert len(shared.processes(name)) == 1
    (shared.run_dir(name) / "go").touch()
    await shared.ended(name)
    assert (await shared.start_run(name, spec, approval(name, spec))).name == name
    assert shape(await shared.events(name)).count("RUNNING") == 1


async def test_a_repeated_start_with_another_spec_is_refused(shared: Trainer, name: str) -> None:
    await shared.run(name, *WAITING)
    async with refused("APPROVAL_REFUSED"):
        await shared.run(name, ["fail", "DIVERGED"])


async def test_a_start_waits_for_a_node_that_is_away(trainer: Trainer) -> None:
    await trainer.node.stop()
    async with refused("PEER_UNAVAILABLE", Code.UNAVAILABLE):
        await trainer.run(RUN, ["started"], ["succeed"])
    assert (await trainer.get(RUN)).state == ACCEPTED
    await trainer.node.start()
    await trainer.run(RUN, ["started"], ["succeed"])
    assert shape(await trainer.events(RUN))[-1] == "SUCCEEDED"


async def test_a_waiting_run_takes_a_fresh_approval(trainer: Trainer) -> None:
    await trainer.node.stop()
    spec = trainer.spec(["succeed"])
    async with refused("PEER_UNAVAILABLE"):
        await trainer.start_run(RUN, spec, approval(RUN, spec))
    fresh = approval(RUN, spec, jti="2")
    async with refused("PEER_UNAVAILABLE"):
        await trainer.start_run(RUN, spec, fresh)
    assert (trainer.run_dir(RUN) / "approval").read_text() == fresh.token
    async with refused("APPROVAL_REFUSED"):
        await trainer.start_run(RUN, spec, approval(RUN, spec, amounts={"host": 1 << 40}))


async def test_a_run_that_waited_for_its_node_is_activated_after_a_restart(trainer: Trainer) -> None:
    await trainer.node.stop()
    async with refused("PEER_UNAVAILABLE"):
        await trainer.run(RUN, ["started"], ["succeed"])
    await trainer.kill()
    await trainer.node.start()
    await trainer.start()
    assert shape(await trainer.events(RUN))[-1] == "SUCCEEDED"


async def test_the_worker_is_capped_at_what_was_signed(shared: Trainer, name: str) -> None:
    spec = shared.spec(*WAITING)
    changed = approval(name, spec, amounts={"host": 5, "disk": 6})
    changed.amounts.add(device="host", reserved_bytes=1 << 50)
    await shared.start_run(name, spec, changed)
    record = shared.read_json(name, "run.json")
    assert [(each["device"], each["reserved_bytes"]) for each in record["amounts"]] == [
        ("host", 5),
        ("disk", 6),
    ]
    assert record["predicted_bytes"] == 5


async def test_a_spec_reaches_the_worker_byte_by_byte(shared: Trainer, name: str) -> None:
    spec = shared.spec(*WAITING)
    assert serialize_resolved(dataclasses.replace(parse_resolved(spec))) == spec
    await shared.start_run(name, spec, approval(name, spec))
    assert (shared.run_dir(name) / "resolved_spec.bin").read_bytes() == spec


async def test_a_doubled_spawn_ends_itself(shared: Trainer, name: str) -> None:
    await shared.run(name, *WAITING)
    await shared.until(name, RUNNING)
    worker = shared.pid(name)
    double = await asyncio.create_subprocess_exec(*shared.worker_command(name))
    assert await double.wait() == 0
    assert shared.pid(name) == worker
    (shared.run_dir(name) / "go").touch()
    assert shape(await shared.events(name)).count("RUNNING") == 1


async def test_a_worker_that_dies_before_it_claims_is_spawned_again_and_then_lost(trainer: Trainer) -> None:
    await trainer.restart(WEIGHBRIDGE_WORKER_COMMAND='["/bin/false"]')
    await trainer.run(RUN, ["succeed"])
    run = await trainer.ended(RUN)
    assert (run.state, run.failure.reason) == (LOST, "WORKER_LOST")
    assert "exit status 1" in run.failure.message
    # Whatever was spawned and comes late finds the claim taken.
    late = await asyncio.create_subprocess_exec(*trainer.worker_command(RUN))
    assert await late.wait() == 0


async def test_an_attempt_below_a_cancelled_one_is_refused(shared: Trainer, name: str) -> None:
    job = name.removesuffix("-1")
    assert (await shared.cancel(f"{job}-3")).state == CANCELLED
    for attempt in (1, 3):
        async with refused("STALE_ATTEMPT") as refusal:
            await shared.run(f"{job}-{attempt}", ["succeed"])
        assert refusal.metadata["highest_attempt"] == "3"
    await shared.run(f"{job}-4", *WAITING)
    await shared.until(f"{job}-4", STARTING)


async def test_reservations_of_runs_that_are_lost_here_are_released(shared: Trainer, name: str) -> None:
    shared.node.active.add("runs/gone-1")
    await eventually(lambda: "runs/gone-1" in shared.node.released)


async def test_a_start_in_flight_is_no_lost_run(shared: Trainer, name: str) -> None:
    reported = len(shared.node.reports)

    async def report_meanwhile() -> None:
        shared.node.active.add(name)
        await eventually(lambda: len(shared.node.reports) > reported + 3)

    shared.node.before_activation[name] = report_meanwhile
    await shared.run(name, *WAITING)
    assert name not in shared.node.released


async def test_a_trainer_on_another_node_refuses(trainer: Trainer) -> None:
    await trainer.restart(WEIGHBRIDGE_NODE="elsewhere")
    async with refused("APPROVAL_REFUSED") as error:
        await trainer.run(RUN, ["succeed"])
    assert NODE in error.message


async def test_a_trainer_that_is_not_told_its_node_learns_it(trainer: Trainer) -> None:
    await trainer.node.stop()
    await trainer.restart(WEIGHBRIDGE_NODE="")
    async with refused("PEER_UNAVAILABLE"):
        await trainer.run(RUN, ["succeed"])
    assert not trainer.run_dir(RUN).exists()
    await trainer.node.start()
    await eventually(lambda: trainer.node.reports)
    await eventually(lambda: trainer.accepts(RUN, ["succeed"]))
