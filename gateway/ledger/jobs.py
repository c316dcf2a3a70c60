"""Jobs in the ledger."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, delete, insert, or_, select, update

from gateway.jobs.job import Condition, Job, now
from gateway.jobs.states import FINAL, LIVE, JobState, may_follow
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.events import append_event, job_topic, state_body
from gateway.ledger.tables import job_labels, jobs
from services.common.failures import Failure

ANY_JOB = "jobs"
"""The topic of every change of a state."""

_CARRIED = ("spec", "resolved", "estimate", "verdict", "progress", "artifact")


def state_topic(job_id: str) -> str:
    """Return the topic of what a job's driver must know: another state, or the order to leave its node."""
    return f"states/{job_id}"


async def insert_job(tx: Transaction, job: Job, labels: Mapping[str, str]) -> None:
    """Write a new job down with its first event."""
    await tx.execute(insert(jobs), _to_row(vars(job)))
    if labels:
        await tx.execute(
            insert(job_labels), [{"job": job.id, "key": k, "value": v} for k, v in labels.items()]
        )
    await append_event(tx, job.id, 0, "job", state_body(job.state, (), None))
    tx.touch(ANY_JOB)


async def find_request(tx: Transaction, caller: str, request_id: str) -> Job | None:
    """Return the job that a caller's request id made."""
    return await _one(tx, select(jobs).where(jobs.c.caller == caller, jobs.c.request_id == request_id))


async def get_job(tx: Transaction, job_id: str, *, hold: bool = False) -> Job | None:
    """Return a job; held, it stays as it was read until the transaction ends."""
    query = select(jobs).where(jobs.c.id == job_id)
    # SQLite knows no such lock and needs none: there is one writer.
    return await _one(tx, query.with_for_update() if hold else query)


async def list_jobs(
    tx: Transaction,
    project: str,
    states: Collection[JobState],
    labels: Mapping[str, str],
    after: tuple[datetime, str] | None,
    limit: int,
) -> list[Job]:
    """Return a project's jobs, newest first, after a position (create time, id)."""
    query = select(jobs).where(jobs.c.project == project)
    if states:
        query = query.where(jobs.c.state.in_([state.value for state in states]))
    for key, value in labels.items():
        query = query.where(_has_label(key, value))
    if after is not None:
        query = query.where(_older(*after))
    return await _all(tx, query.order_by(jobs.c.create_time.desc(), jobs.c.id.desc()).limit(limit))


def _has_label(key: str, value: str) -> ColumnElement[bool]:
    return (
        select(job_labels.c.job)
        .where(job_labels.c.job == jobs.c.id, job_labels.c.key == key, job_labels.c.value == value)
        .exists()
    )


def _older(time: datetime, job_id: str) -> ColumnElement[bool]:
    return or_(jobs.c.create_time < time, and_(jobs.c.create_time == time, jobs.c.id < job_id))


async def queue(tx: Transaction) -> list[Job]:
    """Return the queued jobs in the order of the queue: priority, then age.

    Without what they carry: thousands may wait, and few of them are looked at closely.
    """
    columns = [column for column in jobs.c if column.name not in _CARRIED]
    query = select(*columns).where(jobs.c.state == JobState.QUEUED.value)
    rows = await tx.execute(query.order_by(jobs.c.priority.desc(), jobs.c.create_time, jobs.c.id))
    return [Job(**_from_row({**row._mapping, "spec": b""})) for row in rows]


async def ids_in(tx: Transaction, states: Iterable[JobState]) -> list[str]:
    """Return the ids of the jobs in one of these states, those first that the queue has first."""
    query = select(jobs.c.id).where(jobs.c.state.in_([state.value for state in states]))
    rows = await tx.execute(query.order_by(jobs.c.priority.desc(), jobs.c.create_time, jobs.c.id))
    return list(rows.scalars())


async def live_user_of(tx: Transaction, *, dataset: str = "", base_job: str = "") -> Job | None:
    """Return a job that is not final and trains on a data set, or starts from a job's artifact."""
    wanted = jobs.c.dataset == dataset if dataset else jobs.c.base_job == base_job
    return await _one(
        tx, select(jobs).where(wanted, jobs.c.state.in_([state.value for state in LIVE])).limit(1)
    )


async def expired(tx: Transaction, moment: datetime) -> list[Job]:
    """Return the jobs whose artifact's time is over."""
    return await _all(tx, select(jobs).where(jobs.c.expire_time <= moment, jobs.c.artifact_digest != ""))


async def change(tx: Transaction, job: Job, **values: Any) -> None:
    """Change fields of a job that is still as it was read: same state, same attempt. Raises Moved."""
    # Compare and set: two replicas may read the same job, and one of them writes first.
    same = (jobs.c.id == job.id, jobs.c.state == job.state.value, jobs.c.attempt == job.attempt)
    changes = {**_to_row(values), "version": jobs.c.version + 1}
    if (await tx.execute(update(jobs).where(*same).values(changes))).rowcount == 0:
        raise Moved(job.id)
    tx.touch(job_topic(job.id))


async def move(tx: Transaction, job: Job, to: JobState, **values: Any) -> None:
    """Take a job to another state, with an event. Raises Moved where it is no longer as it was read."""
    if not may_follow(job.state, to):
        raise ValueError(f"{job.name} cannot go from {job.state} to {to}")
    values.setdefault("conditions", ())
    if to in FINAL:
        values.setdefault("end_time", now())
    await change(tx, job, state=to, **values)
    body = state_body(to, values["conditions"], values.get("failure", job.failure))
    await append_event(tx, job.id, values.get("attempt", job.attempt), "job", body)
    tx.touch(ANY_JOB, state_topic(job.id))


async def set_conditions(tx: Transaction, job: Job, conditions: tuple[Condition, ...]) -> None:
    """Replace a job's conditions. Raises Moved.

    Another kind of condition is an event. New figures of the same kind are not: a queue of a thousand jobs
    that all move up by one would write a thousand of them each time.
    """
    kept = {old.type: old.since for old in job.conditions}
    # Since when it stands in the way does not change with what is said about it.
    merged = tuple(Condition(**{**vars(new), "since": kept.get(new.type, new.since)}) for new in conditions)
    if merged == job.conditions:
        return
    await change(tx, job, conditions=merged)
    if set(kept) != {new.type for new in merged}:
        await append_event(tx, job.id, job.attempt, "job", state_body(job.state, merged, job.failure))


async def delete_job(tx: Transaction, job_id: str) -> None:
    """Remove a job and all that hangs on it."""
    await tx.execute(delete(jobs).where(jobs.c.id == job_id))
    tx.touch(ANY_JOB, job_topic(job_id))


async def _one(tx: Transaction, query: Select[Any]) -> Job | None:
    row = (await tx.execute(query)).first()
    return None if row is None else _job(row)


async def _all(tx: Transaction, query: Select[Any]) -> list[Job]:
    return [_job(row) for row in await tx.execute(query)]


def _job(row: Row[Any]) -> Job:
    return Job(**_from_row(dict(row._mapping)))


def _to_row(values: Mapping[str, Any]) -> dict[str, Any]:
    row = dict(values)
    if row.get("failure") is not None:
        row["failure"] = asdict(row["failure"])
    if "conditions" in row:
        row["conditions"] = [condition.to_json() for condition in row["conditions"]]
    if "warnings" in row:
        row["warnings"] = list(row["warnings"])
    return row


def _from_row(values: Mapping[str, Any]) -> dict[str, Any]:
    row = {**values, "state": JobState(values["state"])}
    row["conditions"] = tuple(map(Condition.from_json, row["conditions"]))
    if row["failure"] is not None:
        row["failure"] = Failure(**row["failure"])
    if "warnings" in row:
        row["warnings"] = tuple(row["warnings"])
    return row
