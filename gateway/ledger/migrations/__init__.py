"""The ledger's tables, change by change. Make a new one with `alembic revision`'s naming: `NNNN_what.py`."""
