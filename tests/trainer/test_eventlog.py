"""The event log under tasks that come, go and are cancelled."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path

from services.common.specs import Checkpoint, DeviceKind
from services.trainer.runs.directory import RunRecord
from services.trainer.runs.eventlog import EventLog
from services.trainer.runs.journal import Journal, first_line
from services.trainer.runs.records import Notice, RunState, StateChange

RECORD = RunRecord(
    run="runs/a-1",
    project="default",
    spec_sha256="0" * 64,
    device=DeviceKind.CPU,
    amounts=(),
    predicted_bytes=0,
    start_from=None,
    create_time=datetime.now(UTC),
    boot_id="",
)


def opened(path: Path) -> EventLog:
    file = path / "journal.jsonl"
    file.write_bytes(first_line(1.0, StateChange(state=RunState.ACCEPTED)))
    return EventLog(RECORD, Journal(file))


async def test_writers_that_are_cancelled_harm_nobody(tmp_path: Path) -> None:
    log, chance = opened(tmp_path), random.Random(5)

    async def write(number: int) -> None:
        await log.append(Notice(message=f"{number} " + "x" * chance.randrange(2000)))

    for number in range(100):
        task = asyncio.create_task(write(number))
        await asyncio.sleep(chance.random() * 0.001)
        if chance.random() < 0.5:
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await log.append(StateChange(state=RunState.LOST))
    entries, _ = Journal(tmp_path / "journal.jsonl").read()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [event.event for event in [each async for each in log.watch("")]] == [e.event for e in entries]


async def test_states_that_cannot_follow_are_left_out(tmp_path: Path) -> None:
    log = opened(tmp_path)
    states = [RunState.RUNNING, RunState.STARTING, RunState.CANCELLING, RunState.RUNNING, RunState.LOST]
    for state in [*states, RunState.CANCELLED, RunState.SUCCEEDED]:
        await log.append(StateChange(state=state))
    told = [event.event async for event in log.watch("")]
    assert [change.state.value for change in told if isinstance(change, StateChange)] == [
        "accepted",
        "starting",
        "cancelling",
        "cancelled",
    ]


async def test_a_step_has_one_checkpoint(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(2):
        await log.append(Checkpoint(step=3, digest="sha256:0", size_bytes=1, attempt=1))
    assert len((await log.run()).checkpoints) == 1


async def test_the_offset_never_goes_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    await log.append(Notice(message="one"), worker_offset=50)
    await log.append(Notice(message="two"))
    await log.append(Notice(message="three"), worker_offset=20)
    assert log.last.worker_offset == 50
