"""The fence: what an attempt that is over still sends changes nothing."""

import asyncio

import pytest

from gateway.jobs.job import Job, now
from gateway.jobs.states import JobState
from gateway.ledger import attempts, jobs
from gateway.ledger.engine import Ledger, Moved, Transaction
from gateway.ledger.events import append_event, events_after
from gateway.packed import Packed
from services.common.specs import Checkpoint


async def running(ledger: Ledger, attempt: int = 2) -> Job:
    """Return a job that trains in its second attempt."""
    job = Job(
        id="j1",
        project="p",
        caller="user/a",
        request_sha256="",
        spec=Packed(b""),
        task="sft",
        dataset="d",
        create_time=now(),
        state=JobState.RUNNING,
        attempt=attempt,
    )

    async def work(tx: Transaction) -> Job:
        await jobs.insert_job(tx, job, {"team": "vision"})
        for number in range(1, attempt + 1):
            await attempts.insert_attempt(tx, job.id, number, "nodes/a")
        found = await jobs.get_job(tx, job.id)
        assert found is not None
        return found

    return await ledger.write(work)


def point(attempt: int, step: int = 5) -> Checkpoint:
    return Checkpoint(step=step, digest=f"sha256:{step}", size_bytes=1, attempt=attempt)


async def commit(ledger: Ledger, attempt: int, step: int = 5) -> bool:
    return await ledger.write(lambda tx: attempts.commit_checkpoint(tx, "j1", point(attempt, step)))


async def test_only_the_current_attempt_of_a_live_job_commits(ledger: Ledger) -> None:
    job = await running(ledger)
    assert not await commit(ledger, attempt=1)
    assert await commit(ledger, attempt=2)
    await ledger.write(lambda tx: jobs.move(tx, job, JobState.FAILED))
    assert not await commit(ledger, attempt=2, step=6)
    kept = await ledger.read(lambda tx: attempts.checkpoints_of(tx, "j1"))
    assert kept == [point(2)]


async def test_a_commit_that_is_repeated_changes_nothing(ledger: Ledger) -> None:
    await running(ledger)
    assert await commit(ledger, attempt=2)
    assert await commit(ledger, attempt=2)
    assert len(await ledger.read(lambda tx: attempts.checkpoints_of(tx, "j1"))) == 1


async def test_a_decision_about_a_job_that_went_on_is_refused(ledger: Ledger) -> None:
    job = await running(ledger)
    await ledger.write(lambda tx: jobs.move(tx, job, JobState.CANCELLING))
    for late in (JobState.SUCCEEDED, JobState.QUEUED):
        with pytest.raises(Moved):
            await ledger.write(lambda tx, to=late: jobs.move(tx, job, to))


async def test_a_job_takes_no_way_that_is_not_on_the_map(ledger: Ledger) -> None:
    job = await running(ledger)
    with pytest.raises(ValueError, match="running to weighing"):
        await ledger.write(lambda tx: jobs.move(tx, job, JobState.WEIGHING))


async def test_events_are_numbered_without_gaps_in_the_order_of_their_commits(ledger: Ledger) -> None:
    await running(ledger)
    await asyncio.gather(
        *(
            ledger.write(lambda tx, n=number: append_event(tx, "j1", 2, "notice", str(n).encode()))
            for number in range(20)
        )
    )
    events = await ledger.read(lambda tx: events_after(tx, "j1", 0, 100))
    assert [event.seq for event in events] == list(range(1, 22))


async def test_deleting_a_job_deletes_all_that_hangs_on_it(ledger: Ledger) -> None:
    await running(ledger)
    await commit(ledger, attempt=2)
    await ledger.write(lambda tx: jobs.delete_job(tx, "j1"))
    assert not await ledger.read(lambda tx: attempts.attempts_of(tx, "j1"))
    assert not await ledger.read(lambda tx: attempts.checkpoints_of(tx, "j1"))
    assert not await ledger.read(lambda tx: events_after(tx, "j1", 0, 100))
