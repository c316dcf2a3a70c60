"""Attempts and their committed checkpoints in the ledger."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, and_, delete, func, insert, select, update

from gateway.jobs.job import Attempt, DevicePeak, Job, now
from gateway.jobs.states import LIVE, RunState
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import attempts, checkpoints, jobs
from services.common.failures import Failure
from services.common.specs import Checkpoint


async def insert_attempt(tx: Transaction, job_id: str, attempt: int, node: str) -> None:
    """Write down that an attempt goes to a node."""
    new = Attempt(job=job_id, attempt=attempt, node=node, create_time=now())
    await tx.execute(insert(attempts), _to_row(vars(new)))


async def attempts_of(tx: Transaction, job_id: str) -> list[Attempt]:
    """Return a job's attempts, oldest first."""
    query = select(attempts).where(attempts.c.job == job_id).order_by(attempts.c.attempt)
    return [_attempt(row) for row in await tx.execute(query)]


async def current_attempt(tx: Transaction, job: Job) -> Attempt | None:
    """Return the attempt that a job is at, if it has not ended."""
    query = select(attempts).where(attempts.c.job == job.id, attempts.c.attempt == job.attempt)
    row = (await tx.execute(query.where(attempts.c.end_time.is_(None)))).first()
    return None if row is None else _attempt(row)


async def last_attempt(tx: Transaction, job_id: str) -> Attempt | None:
    """Return a job's newest attempt."""
    query = select(attempts).where(attempts.c.job == job_id).order_by(attempts.c.attempt.desc()).limit(1)
    row = (await tx.execute(query)).first()
    return None if row is None else _attempt(row)


async def open_attempts_on(tx: Transaction, node: str) -> list[Attempt]:
    """Return the attempts that the ledger places on a node and that have not ended."""
    query = select(attempts).where(attempts.c.node == node, attempts.c.end_time.is_(None))
    return [_attempt(row) for row in await tx.execute(query.order_by(attempts.c.job))]


async def open_runs(tx: Transaction) -> Mapping[str, list[str]]:
    """Return the names of the runs that the ledger places on each node."""
    query = select(attempts).where(attempts.c.end_time.is_(None)).order_by(attempts.c.job)
    found: dict[str, list[str]] = {}
    for row in await tx.execute(query):
        found.setdefault(row.node, []).append(_attempt(row).run)
    return found


async def update_attempt(tx: Transaction, attempt: Attempt, **values: Any) -> None:
    """Change fields of an attempt."""
    same = (attempts.c.job == attempt.job, attempts.c.attempt == attempt.attempt)
    await tx.execute(update(attempts).where(*same).values(_to_row(values)))


async def delete_attempt(tx: Transaction, attempt: Attempt) -> None:
    """Forget an attempt that never had memory."""
    same = (attempts.c.job == attempt.job, attempts.c.attempt == attempt.attempt)
    await tx.execute(delete(attempts).where(*same))


async def count_losses(tx: Transaction, job: Job) -> int:
    """Return how many attempts that had begun to train were lost since the job was made or resumed."""
    query = select(func.count()).select_from(attempts)
    counted = query.where(
        attempts.c.job == job.id,
        attempts.c.attempt > job.retries_from,
        attempts.c.state == RunState.LOST.value,
        attempts.c.start_time.is_not(None),
    )
    return int((await tx.execute(counted)).scalar_one())


async def commit_checkpoint(tx: Transaction, job_id: str, checkpoint: Checkpoint) -> bool:
    """Write a checkpoint down, unless its attempt is over: this keeps a stalled worker from doing harm.

    Returns False where the fence held it off. A repeat changes nothing and returns True.
    """
    live = and_(
        jobs.c.id == job_id,
        jobs.c.attempt == checkpoint.attempt,
        jobs.c.state.in_([state.value for state in LIVE]),
    )
    # Locked: between this look and the commit nobody starts the next attempt.
    if (await tx.execute(select(jobs.c.id).where(live).with_for_update())).first() is None:
        return False
    key = (
        checkpoints.c.job == job_id,
        checkpoints.c.attempt == checkpoint.attempt,
        checkpoints.c.step == checkpoint.step,
    )
    # After a crash the same event is read again.
    await tx.execute(delete(checkpoints).where(*key))
    row = {**vars(checkpoint), "metrics": dict(checkpoint.metrics)}
    await tx.execute(insert(checkpoints), {"job": job_id, **row})
    return True


async def checkpoints_of(tx: Transaction, job_id: str) -> list[Checkpoint]:
    """Return a job's committed checkpoints, oldest first."""
    query = select(checkpoints).where(checkpoints.c.job == job_id)
    rows = await tx.execute(query.order_by(checkpoints.c.attempt, checkpoints.c.step))
    return [Checkpoint(**{k: v for k, v in row._mapping.items() if k != "job"}) for row in rows]


async def delete_checkpoint(tx: Transaction, job_id: str, checkpoint: Checkpoint) -> None:
    """Forget a committed checkpoint."""
    key = (
        checkpoints.c.job == job_id,
        checkpoints.c.attempt == checkpoint.attempt,
        checkpoints.c.step == checkpoint.step,
    )
    await tx.execute(delete(checkpoints).where(*key))


def _attempt(row: Row[Any]) -> Attempt:
    values = dict(row._mapping)
    return Attempt(
        **{
            **values,
            "state": None if values["state"] is None else RunState(values["state"]),
            "failure": None if values["failure"] is None else Failure(**values["failure"]),
            "peaks": tuple(DevicePeak(**peak) for peak in values["peaks"]),
        }
    )


def _to_row(values: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(values)
    if row.get("failure") is not None:
        row["failure"] = asdict(row["failure"])
    if "peaks" in row:
        row["peaks"] = [asdict(peak) for peak in row["peaks"]]
    return row
