"""Bringing the ledger's tables up to date."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

# Any number, the same in every replica.
_LOCK = 0x77656967


def upgrade(connection: Connection) -> None:
    """Apply every migration that the database lacks, in the connection's transaction.

    Replicas that start together wait for each other: SQLite's transaction is already exclusive, PostgreSQL
    takes a lock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", "gateway.ledger:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
