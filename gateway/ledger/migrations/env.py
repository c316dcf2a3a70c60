"""How alembic runs: in the transaction that `gateway.ledger.migrate` gives it."""

from alembic import context

from gateway.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can undo changes of tables too, once the driver keeps its hands off the transaction.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
