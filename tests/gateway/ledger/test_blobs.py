"""A blob goes when nobody needs it, and never while somebody comes to need it."""

import asyncio
from datetime import timedelta

from gateway.jobs.job import now
from gateway.ledger import blobs
from gateway.ledger.engine import Ledger


async def doomed(ledger: Ledger, in_s: float = 1) -> list[str]:
    moment = now() + timedelta(seconds=in_s)
    return await ledger.write(lambda tx: blobs.doom(tx, moment, 10))


async def test_what_two_need_stays_when_one_goes(ledger: Ledger) -> None:
    await blobs.claim(ledger.write, "job/1", "a", ["x", "y"])
    await blobs.claim(ledger.write, "job/2", "b", ["y"])
    await ledger.write(lambda tx: blobs.let_go(tx, now(), scope="job/1"))
    assert await doomed(ledger) == ["x"]


async def test_what_is_needed_again_in_time_stays(ledger: Ledger) -> None:
    await blobs.claim(ledger.write, "job/1", "a", ["x"])
    await ledger.write(lambda tx: blobs.let_go(tx, now(), owners=["a"]))
    await blobs.claim(ledger.write, "job/2", "b", ["x"])
    assert await doomed(ledger) == []
    await ledger.write(lambda tx: blobs.let_go(tx, now() + timedelta(hours=1), scope="job/2"))
    assert await doomed(ledger) == [], "it has its whole time again"


async def test_what_is_being_deleted_is_waited_for(ledger: Ledger) -> None:
    await blobs.claim(ledger.write, "job/1", "a", ["x"])
    await ledger.write(lambda tx: blobs.let_go(tx, now(), scope="job/1"))
    assert await doomed(ledger) == ["x"]
    claiming = asyncio.create_task(blobs.claim(ledger.write, "job/2", "b", ["x"]))
    await asyncio.sleep(0.2)
    assert not claiming.done()
    await ledger.write(lambda tx: blobs.forget(tx, ["x"]))
    await claiming


async def test_a_deletion_that_a_crash_broke_off_is_done_again(ledger: Ledger) -> None:
    await blobs.claim(ledger.write, "job/1", "a", ["x"])
    await ledger.write(lambda tx: blobs.let_go(tx, now(), scope="job/1"))
    assert await doomed(ledger) == ["x"]
    assert await doomed(ledger, in_s=-3600) == ["x"]
