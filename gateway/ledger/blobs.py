"""Which blobs of the store somebody needs, and which nobody needs any more.

Two who put the same bytes share one blob, so deleting is the dangerous part: a blob that nobody needs may be
put again at that very moment. Hence the order on both sides. Who needs a blob says so first, and then puts it
or looks that it is there. Who deletes one first marks it; while it is marked nobody can come to need it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice

from sqlalchemy import delete, insert, or_, select, update

from gateway.ledger.engine import Transaction
from gateway.ledger.tables import blobs, unreferenced

_PAUSE_S = 0.05


async def claim(
    write: Callable[[Callable[[Transaction], Awaitable[bool]]], Awaitable[bool]],
    scope: str,
    owner: str,
    digests: Iterable[str],
) -> None:
    """Write down that `owner`, a part of `scope`, needs these blobs; wait while one is being deleted."""
    wanted = sorted(set(digests))
    while True:
        if await write(lambda tx: need(tx, scope, owner, wanted)):
            return
        await asyncio.sleep(_PAUSE_S)


async def need(tx: Transaction, scope: str, owner: str, digests: Sequence[str]) -> bool:
    """Write down that `owner` needs these blobs. Returns False where one of them is being deleted."""
    for some in batched(digests):
        doomed = unreferenced.c.digest.in_(some), unreferenced.c.deleting.is_(True)
        if (await tx.execute(select(unreferenced.c.digest).where(*doomed).limit(1))).first() is not None:
            return False
    await tx.execute(delete(blobs).where(blobs.c.owner == owner))
    for some in batched(digests):
        await tx.execute(insert(blobs), [{"digest": each, "owner": owner, "scope": scope} for each in some])
    return True


async def let_go(tx: Transaction, due: datetime, *, scope: str = "", owners: Iterable[str] = ()) -> None:
    """Forget what a whole scope or some owners need; at `due` it is deleted unless somebody else needs it."""
    gone: set[str] = set()
    if scope:
        dropped = delete(blobs).where(blobs.c.scope == scope).returning(blobs.c.digest)
        gone.update((await tx.execute(dropped)).scalars())
    for some in batched(owners):
        dropped = delete(blobs).where(blobs.c.owner.in_(some)).returning(blobs.c.digest)
        gone.update((await tx.execute(dropped)).scalars())
    for some in batched(gone):
        # The later time counts: a blob that was needed until now gets its whole time.
        await tx.execute(delete(unreferenced).where(unreferenced.c.digest.in_(some)))
        rows = [{"digest": each, "due": due, "deleting": False} for each in some]
        await tx.execute(insert(unreferenced), rows)


async def doom(tx: Transaction, moment: datetime, limit: int) -> list[str]:
    """Mark blobs that are due and that nobody needs, and return them: they are to be deleted now."""
    ripe = or_(unreferenced.c.due <= moment, unreferenced.c.deleting.is_(True))
    found = list((await tx.execute(select(unreferenced.c.digest).where(ripe).limit(limit))).scalars())
    needed = set((await tx.execute(select(blobs.c.digest).where(blobs.c.digest.in_(found)))).scalars())
    await forget(tx, needed)
    doomed = [digest for digest in found if digest not in needed]
    await tx.execute(update(unreferenced).where(unreferenced.c.digest.in_(doomed)).values(deleting=True))
    return doomed


async def forget(tx: Transaction, digests: Iterable[str]) -> None:
    """Take blobs off the list of what is to be deleted."""
    for some in batched(digests):
        await tx.execute(delete(unreferenced).where(unreferenced.c.digest.in_(some)))


def batched(items: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    """Yield the items in lists that one statement can take."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def job_scope(job_id: str) -> str:
    """Return the scope of what a job made."""
    return f"job/{job_id}"


def upload_scope(upload_id: str) -> str:
    """Return the scope of an upload's parts."""
    return f"upload/{upload_id}"


def dataset_scope(project: str, dataset_id: str) -> str:
    """Return the scope of a data set."""
    return f"dataset/{project}/{dataset_id}"
