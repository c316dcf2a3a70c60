"""The audit trail in the ledger."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, or_, select

from gateway.audit.records import Admission, Decision, DeviceAmount, Outcome
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import admissions, outcomes


async def record_admission(tx: Transaction, admission: Admission) -> None:
    """Add a decision."""
    values = {key: value for key, value in vars(admission).items() if key != "id"}
    await tx.execute(insert(admissions), {**values, "amounts": [asdict(each) for each in admission.amounts]})


async def list_admissions(
    tx: Transaction,
    projects: Iterable[str],
    *,
    job: str = "",
    since: datetime | None = None,
    before: int | None = None,
    limit: int,
) -> list[Admission]:
    """Return decisions of projects that match a pattern (`*` stands for anything), newest first."""
    query = select(admissions).where(_matches(admissions.c.project, projects))
    if job:
        query = query.where(admissions.c.job == job)
    if since is not None:
        query = query.where(admissions.c.time >= since)
    if before is not None:
        query = query.where(admissions.c.id < before)
    rows = await tx.execute(query.order_by(admissions.c.id.desc()).limit(limit))
    return [_admission(row) for row in rows]


async def record_outcome(tx: Transaction, outcome: Outcome) -> None:
    """Add a measurement. A repeat replaces the first one."""
    await tx.execute(delete(outcomes).where(outcomes.c.run == outcome.run))
    values = {key: value for key, value in vars(outcome).items() if key != "id"}
    await tx.execute(insert(outcomes), values)


async def list_outcomes(
    tx: Transaction, projects: Iterable[str], *, since: datetime | None, before: int | None, limit: int
) -> list[Outcome]:
    """Return measurements of projects that match a pattern, newest first."""
    query = select(outcomes).where(_matches(outcomes.c.project, projects))
    if since is not None:
        query = query.where(outcomes.c.end_time >= since)
    if before is not None:
        query = query.where(outcomes.c.id < before)
    return [
        Outcome(**row._mapping) for row in await tx.execute(query.order_by(outcomes.c.id.desc()).limit(limit))
    ]


def _matches(column: ColumnElement[str], patterns: Iterable[str]) -> ColumnElement[bool]:
    # Neither projects nor patterns hold a character that LIKE knows, but `*` itself.
    return or_(False, *(column.like(pattern.replace("*", "%")) for pattern in patterns))


def _admission(row: Row[Any]) -> Admission:
    amounts = tuple(DeviceAmount(**amount) for amount in row.amounts)
    return Admission(**{**row._mapping, "amounts": amounts, "decision": Decision(row.decision)})
