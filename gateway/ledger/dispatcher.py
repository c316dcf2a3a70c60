"""The dispatcher's row: who dispatches, and in which epoch."""

from sqlalchemy import select, update

from gateway.ledger.clock import DatabaseNow
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import dispatcher


class Deposed(Exception):
    """Another replica dispatches now: what this one was about to write is refused."""


async def take(tx: Transaction, holder: str, ttl_s: float) -> int | None:
    """Become the dispatcher if there is none. Returns the new epoch, or None."""
    # On the database's clock: clocks of replicas differ, and the one that is ahead would depose the other.
    now = DatabaseNow()
    values = {"holder": holder, "epoch": dispatcher.c.epoch + 1, "expires": now + round(ttl_s * 1e6)}
    taken = update(dispatcher).where(dispatcher.c.expires < now).values(values)
    return (await tx.execute(taken.returning(dispatcher.c.epoch))).scalar_one_or_none()


async def renew(tx: Transaction, epoch: int, ttl_s: float) -> None:
    """Stay the dispatcher. Raises Deposed."""
    later = DatabaseNow() + round(ttl_s * 1e6)
    renewed = update(dispatcher).where(dispatcher.c.epoch == epoch).values(expires=later)
    if (await tx.execute(renewed)).rowcount == 0:
        raise Deposed


async def give_up(tx: Transaction, epoch: int) -> None:
    """Let another replica take over at once."""
    await tx.execute(update(dispatcher).where(dispatcher.c.epoch == epoch).values(expires=0))


async def check(tx: Transaction, epoch: int) -> None:
    """Hold the dispatcher's row until the end of the transaction. Raises Deposed."""
    query = select(dispatcher.c.epoch).where(dispatcher.c.epoch == epoch).with_for_update()
    if (await tx.execute(query)).first() is None:
        raise Deposed
