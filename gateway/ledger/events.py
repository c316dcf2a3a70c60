"""Events of jobs in the ledger."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, select, update

from gateway.jobs.job import Condition, Event, now
from gateway.jobs.states import JobState
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import events, jobs
from services.common.failures import Failure


def job_topic(job_id: str) -> str:
    """Return the topic that a job's changes are signalled under."""
    return f"jobs/{job_id}"


async def append_event(tx: Transaction, job_id: str, attempt: int, kind: str, body: bytes) -> None:
    """Add an event to a job."""
    # The job's row counts: whoever appends next waits for this transaction, so that no reader finds a gap.
    numbered = update(jobs).where(jobs.c.id == job_id).values(event_seq=jobs.c.event_seq + 1)
    seq = (await tx.execute(numbered.returning(jobs.c.event_seq))).scalar_one()
    values = {"job": job_id, "seq": seq, "attempt": attempt, "time": now(), "kind": kind, "body": body}
    await tx.execute(insert(events), values)
    tx.touch(job_topic(job_id))


async def newest_seq(tx: Transaction, job_id: str) -> int:
    """Return the number of a job's newest event."""
    return int((await tx.execute(select(jobs.c.event_seq).where(jobs.c.id == job_id))).scalar_one())


async def events_after(tx: Transaction, job_id: str, seq: int, limit: int) -> list[Event]:
    """Return a job's next events, oldest first."""
    query = (
        select(events).where(events.c.job == job_id, events.c.seq > seq).order_by(events.c.seq).limit(limit)
    )
    return [Event(**row._mapping) for row in await tx.execute(query)]


def state_body(state: JobState, conditions: Iterable[Condition], failure: Failure | None) -> bytes:
    """Return the body of an event of kind `job`: what changes about a job, as it was then."""
    found = {"state": state, "conditions": [each.to_json() for each in conditions]}
    return json.dumps({**found, "failure": None if failure is None else asdict(failure)}).encode()


def parse_state_body(body: bytes) -> dict[str, Any]:
    """Return the fields of a Job that `state_body` wrote."""
    values = json.loads(body)
    return {
        "state": JobState(values["state"]),
        "conditions": tuple(map(Condition.from_json, values["conditions"])),
        "failure": None if values["failure"] is None else Failure(**values["failure"]),
    }
