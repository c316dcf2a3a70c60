"""Opening, migrating, and what a transaction promises."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text

from gateway.ledger.engine import Ledger, Moved, Transaction
from gateway.ledger.tables import blobs, metadata


async def owners(tx: Transaction) -> list[str]:
    return list((await tx.execute(select(blobs.c.owner).order_by(blobs.c.owner))).scalars())


async def add(tx: Transaction, owner: str) -> None:
    await tx.execute(insert(blobs), {"digest": "sha256:0", "owner": owner, "scope": ""})


async def test_the_migrations_make_the_tables(ledger: Ledger) -> None:
    def differences(connection: Connection) -> list[object]:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    async with ledger._engine.connect() as connection:
        # Columns of moments are plain integers in migrations: their type is the code's own.
        assert not await connection.run_sync(differences)


async def test_two_that_open_a_new_ledger_together_wait_for_each_other(url: str) -> None:
    both = await asyncio.gather(Ledger.open(url), Ledger.open(url))
    for ledger in both:
        assert await ledger.read(owners) == []
        await ledger.close()


async def test_what_was_written_survives_the_process(ledger: Ledger, url: str) -> None:
    if url.startswith("sqlite"):
        # PostgreSQL promises all of this unasked.
        pragmas = {}
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            pragmas[name] = await ledger.read(lambda tx, name=name: pragma(tx, name))
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    await ledger.write(lambda tx: add(tx, "a"))
    again = await Ledger.open(url)
    assert await again.read(owners) == ["a"]
    await again.close()


async def pragma(tx: Transaction, name: str) -> object:
    return (await tx.execute(text(f"PRAGMA {name}"))).scalar_one()


async def test_a_write_that_raises_changes_nothing_and_tells_nobody(ledger: Ledger) -> None:
    async def work(tx: Transaction) -> None:
        await add(tx, "a")
        tx.touch("topic")
        raise Moved("a")

    with ledger.signals.listen("topic") as listener:
        with pytest.raises(Moved):
            await ledger.write(work)
        assert not listener._event.is_set()
    assert await ledger.read(owners) == []


async def test_a_write_whose_caller_leaves_comes_to_its_end(ledger: Ledger) -> None:
    half_way, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        await add(tx, "a")
        half_way.set()
        await go_on.wait()
        await add(tx, "b")
        tx.touch("topic")

    with ledger.signals.listen("topic") as listener:
        writing = asyncio.create_task(ledger.write(work))
        await half_way.wait()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        go_on.set()
        await listener.wait(10)
    assert await ledger.read(owners) == ["a", "b"]


async def test_readers_do_not_wait_for_a_writer(ledger: Ledger) -> None:
    writing, go_on = asyncio.Event(), asyncio.Event()

    async def work(tx: Transaction) -> None:
        await add(tx, "a")
        writing.set()
        await go_on.wait()

    task = asyncio.create_task(ledger.write(work))
    await writing.wait()
    assert await ledger.read(owners) == []
    go_on.set()
    await task
    assert await ledger.read(owners) == ["a"]


async def test_a_decision_is_made_again_where_it_was_overtaken(ledger: Ledger) -> None:
    tries = 0

    async def work(tx: Transaction) -> int:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Moved("a")
        return tries

    assert await ledger.decide(work) == 3
