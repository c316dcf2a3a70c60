"""One dispatches; whoever did before can write nothing any more."""

import asyncio

import pytest
from sqlalchemy import insert, select

from gateway.dispatch.reign import Reign
from gateway.ledger import dispatcher
from gateway.ledger.dispatcher import Deposed
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.tables import blobs


async def take(ledger: Ledger, holder: str, ttl_s: float = 60) -> int | None:
    return await ledger.write(lambda tx: dispatcher.take(tx, holder, ttl_s))


async def add(tx: Transaction) -> None:
    await tx.execute(insert(blobs), {"digest": "sha256:0", "owner": "late", "scope": ""})


async def test_one_of_many_becomes_the_dispatcher(ledger: Ledger) -> None:
    epochs = await asyncio.gather(*(take(ledger, f"holder {number}") for number in range(8)))
    assert sorted(epoch for epoch in epochs if epoch is not None) == [1]


async def test_a_dispatcher_that_renews_stays_and_one_that_does_not_is_followed(ledger: Ledger) -> None:
    epoch = await take(ledger, "first", ttl_s=0.3)
    assert epoch == 1
    for _ in range(4):
        await asyncio.sleep(0.1)
        await ledger.write(lambda tx: dispatcher.renew(tx, 1, 0.3))
        assert await take(ledger, "second") is None
    await asyncio.sleep(0.4)
    assert await take(ledger, "second") == 2


async def test_a_stale_dispatchers_writes_are_refused_whole(ledger: Ledger) -> None:
    epoch = await take(ledger, "first", ttl_s=0)
    assert epoch is not None
    await asyncio.sleep(0.01)
    assert await take(ledger, "second") == epoch + 1
    stale = Reign(ledger, epoch)
    with pytest.raises(Deposed):
        await stale.write(add)
    with pytest.raises(Deposed):
        await ledger.write(lambda tx: dispatcher.renew(tx, epoch, 60))

    async def rows(tx: Transaction) -> int:
        return len((await tx.execute(select(blobs))).all())

    assert await ledger.read(rows) == 0
    await Reign(ledger, epoch + 1).write(add)
    assert await ledger.read(rows) == 1


async def test_one_that_stops_lets_the_next_begin_at_once(ledger: Ledger) -> None:
    assert await take(ledger, "first") == 1
    await ledger.write(lambda tx: dispatcher.give_up(tx, 1))
    await asyncio.sleep(0.01)
    assert await take(ledger, "second") == 2
    # A late good-bye of the first one does not end the second's time.
    await ledger.write(lambda tx: dispatcher.give_up(tx, 1))
    assert await take(ledger, "third") is None
