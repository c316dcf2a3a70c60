"""Opening the ledger, and its transactions."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from sqlalchemy import Executable
from sqlalchemy.engine import CursorResult, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.jobs.job import LiveProgress
from gateway.ledger.migrate import upgrade
from gateway.ledger.sqlite import WRITE, open_sqlite
from gateway.signals import Signals

T = TypeVar("T")
_TRIES = 20

# How PostgreSQL says that two transactions met: serialization failure, deadlock, unique violation. On SQLite
# there is one writer, and nobody to meet.
_MET = frozenset({"40001", "40P01", "23505"})


class Moved(Exception):
    """A row was no longer what a decision about it was based on: read it again."""


class Transaction:
    """What the ledger's functions work in: all of it is kept, or nothing."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.touched: set[str] = set()

    async def execute(self, statement: Executable, values: Any = None) -> CursorResult[Any]:
        """Run a statement."""
        result: CursorResult[Any] = await self._connection.execute(statement, values)
        return result

    def touch(self, *topics: str) -> None:
        """Signal these topics once the transaction is kept."""
        self.touched.update(topics)


Work = Callable[[Transaction], Awaitable[T]]


class Ledger:
    """The database, and word of its changes."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self.signals: Signals[LiveProgress] = Signals()
        sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer; a queue in this process is fairer and quicker than its retries.
        self._writer = asyncio.Lock() if sqlite else contextlib.nullcontext()
        # There every transaction sees one state; PostgreSQL has to be asked for that.
        self._reading = {} if sqlite else {"isolation_level": "REPEATABLE READ"}

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, and bring the tables up to date."""
        # Every transaction here ends by itself: one more rollback, as pools do it, costs a turn of a thread.
        options = {"pool_size": 8, "pool_reset_on_return": None}
        make_engine = open_sqlite if make_url(url).get_backend_name() == "sqlite" else create_async_engine
        ledger = cls(make_engine(url, **options))
        async with ledger._begin(write=True) as connection:
            await connection.run_sync(upgrade)
        return ledger

    async def close(self) -> None:
        """Disconnect."""
        await self._engine.dispose()

    async def read(self, work: Work[T]) -> T:
        """Return what `work` finds; all its statements see the same state."""
        return await _to_its_end(self._run(work, write=False))

    async def write(self, work: Work[T]) -> T:
        """Return what `work` returns, once its changes are on the disk; if it raises, nothing has changed.

        Where it met another transaction it is done again, and then sees what that one wrote.
        """
        for _ in range(_TRIES):
            try:
                return await _to_its_end(self._run(work, write=True))
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _MET:
                    raise
        return await _to_its_end(self._run(work, write=True))

    async def decide(self, work: Work[T]) -> T:
        """Return what `work` returns, which reads and then writes; it begins again where it was overtaken."""
        for _ in range(_TRIES):
            with contextlib.suppress(Moved):
                return await self.write(work)
        return await self.write(work)

    async def _run(self, work: Work[T], *, write: bool) -> T:
        async with (
            self._writer if write else contextlib.nullcontext(),
            self._begin(write=write) as connection,
        ):
            transaction = Transaction(connection)
            result = await work(transaction)
        self.signals.notify(transaction.touched)
        return result

    @contextlib.asynccontextmanager
    async def _begin(self, *, write: bool) -> Any:
        async with self._engine.connect() as connection:
            await connection.execution_options(**{WRITE: write}, **({} if write else self._reading))
            async with connection.begin():
                yield connection


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await `work`, and let it end even if the waiting task is cancelled.

    A caller that leaves cancels its task, and a statement cut off in the middle leaves a connection in doubt.
    """
    task = asyncio.ensure_future(work)
    # Where nobody waits any more, nobody hears how it ended.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)
