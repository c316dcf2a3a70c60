"""SQLite as the ledger: what it promises, and when its transactions begin."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

WRITE = "weighbridge_write"
"""Execution option of a connection whose transaction writes."""
_BUSY_MS = 20_000


def open_sqlite(url: str, **options: Any) -> AsyncEngine:
    """Return an engine on a database file, whose directory is made where there is none."""
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, **options)

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        # The driver's own idea of transactions begins them late and breaks them at DDL: switched off.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in _pragmas():
            cursor.execute(pragma)
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later could not wait for another writer: it would fail.
        write = connection.get_execution_options().get(WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _pragmas() -> Iterable[str]:
    yield f"PRAGMA busy_timeout={_BUSY_MS}"
    yield "PRAGMA journal_mode=WAL"
    # What was answered must survive a power cut, not only a crash of this process.
    yield "PRAGMA synchronous=FULL"
    yield "PRAGMA foreign_keys=ON"
