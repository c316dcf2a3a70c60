"""Nodes in the ledger."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, delete, insert, or_, select, update

from gateway.jobs.job import now
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import nodes
from gateway.nodes.node import FleetNode, Report

FLEET = "nodes"
"""The topic of every change of a node."""


async def get_node(tx: Transaction, name: str) -> FleetNode | None:
    """Return a node."""
    row = (await tx.execute(select(nodes).where(nodes.c.name == name))).first()
    return None if row is None else _node(row)


async def all_nodes(tx: Transaction, after: str = "", limit: int | None = None) -> list[FleetNode]:
    """Return the nodes after a name, ordered by name."""
    query = select(nodes).where(nodes.c.name > after).order_by(nodes.c.name).limit(limit)
    return [_node(row) for row in await tx.execute(query)]


async def others(tx: Transaction, name: str) -> list[str]:
    """Return the names of the nodes beside this one that are not lost."""
    query = select(nodes.c.name).where(nodes.c.name != name, nodes.c.lost.is_(False))
    return list((await tx.execute(query.order_by(nodes.c.name))).scalars())


async def register(tx: Transaction, report: Report, identity: str, granted_s: float, lease_s: float) -> None:
    """Enter a node, or enter it again: what a person said about it stays.

    `lease_s` counts until the node's next report shows that it has heard of `granted_s`.
    """
    fresh = {**_reported(report), "reachable": True, "lost": False}
    fresh |= {"granted_lease_s": granted_s, "lease_s": lease_s}
    known = update(nodes).where(nodes.c.name == report.name)
    counted = {"heartbeats": nodes.c.heartbeats + 1, "version": nodes.c.version + 1}
    if (await tx.execute(known.values({**fresh, **counted}))).rowcount == 0:
        new = {"identity": identity, "cordoned": False, "draining": False}
        first = {"heartbeats": 1, "version": 1, "create_time": now()}
        await tx.execute(insert(nodes), {"name": report.name, **fresh, **new, **first})
    tx.touch(FLEET)


async def heard(tx: Transaction, report: Report) -> None:
    """Keep a node's report. That it reports at all shows that it knows of the lease it was granted."""
    changes = {**_reported(report), "reachable": True, "lease_s": nodes.c.granted_lease_s}
    counted = {"heartbeats": nodes.c.heartbeats + 1, "version": nodes.c.version + 1}
    await tx.execute(update(nodes).where(nodes.c.name == report.name).values({**changes, **counted}))
    tx.touch(FLEET)


async def refresh(tx: Transaction, report: Report) -> None:
    """Keep a snapshot that the gateway asked for, unless a newer one came in meanwhile."""
    # No heartbeat: that the gateway reached the node does not show that the node reaches the gateway.
    values = {key: value for key, value in _reported(report).items() if key != "heartbeat_time"}
    older = or_(nodes.c.observe_time.is_(None), nodes.c.observe_time <= report.observe_time)
    same = update(nodes).where(nodes.c.name == report.name, older)
    await tx.execute(same.values({**values, "version": nodes.c.version + 1}))
    tx.touch(FLEET)


async def mark(tx: Transaction, names: Iterable[str], **values: Any) -> None:
    """Set flags of nodes."""
    changed = update(nodes).where(nodes.c.name.in_(list(names)))
    await tx.execute(changed.values({**values, "version": nodes.c.version + 1}))
    tx.touch(FLEET)


async def delete_node(tx: Transaction, name: str) -> None:
    """Forget a node."""
    await tx.execute(delete(nodes).where(nodes.c.name == name))
    tx.touch(FLEET)


def _reported(report: Report) -> dict[str, Any]:
    values = {key: value for key, value in vars(report).items() if key != "name"}
    return {**values, "holding": list(report.holding), "heartbeat_time": now()}


def _node(row: Row[Any]) -> FleetNode:
    return FleetNode(**{**row._mapping, "holding": tuple(row.holding)})
