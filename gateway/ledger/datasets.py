"""Data sets in the ledger."""

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, insert, or_, select

from gateway.datasets.dataset import Dataset
from gateway.ledger.engine import Transaction
from gateway.ledger.tables import datasets
from services.common.specs import DatasetFormat, DatasetSummary, LabelCount, RowShape, TextStatistics


async def insert_dataset(tx: Transaction, dataset: Dataset) -> None:
    """Write a data set down."""
    values = {**vars(dataset), "summary": asdict(dataset.summary), "warnings": list(dataset.warnings)}
    await tx.execute(insert(datasets), values)


async def get_dataset(tx: Transaction, project: str, dataset_id: str) -> Dataset | None:
    """Return a data set."""
    query = select(datasets).where(datasets.c.project == project, datasets.c.id == dataset_id)
    row = (await tx.execute(query)).first()
    return None if row is None else _dataset(row)


async def dataset_of_upload(tx: Transaction, upload: str) -> Dataset | None:
    """Return the data set that an upload became."""
    row = (await tx.execute(select(datasets).where(datasets.c.upload == upload))).first()
    return None if row is None else _dataset(row)


async def list_datasets(
    tx: Transaction, project: str, after: tuple[datetime, str] | None, limit: int
) -> list[Dataset]:
    """Return a project's data sets, newest first, after a position (create time, id)."""
    query = select(datasets).where(datasets.c.project == project)
    if after is not None:
        time, dataset_id = after
        same = and_(datasets.c.create_time == time, datasets.c.id < dataset_id)
        query = query.where(or_(datasets.c.create_time < time, same))
    order = (datasets.c.create_time.desc(), datasets.c.id.desc())
    return [_dataset(row) for row in await tx.execute(query.order_by(*order).limit(limit))]


async def delete_dataset(tx: Transaction, project: str, dataset_id: str) -> None:
    """Remove a data set."""
    await tx.execute(delete(datasets).where(datasets.c.project == project, datasets.c.id == dataset_id))


def _dataset(row: Row[Any]) -> Dataset:
    summary = dict(row.summary)
    summary["format"] = DatasetFormat(summary["format"])
    summary["labels"] = tuple(LabelCount(**label) for label in summary["labels"])
    # Rows of an earlier version say nothing of text.
    shape, text = summary.get("row_shape"), summary.get("text")
    summary["row_shape"] = RowShape(shape) if shape else None
    summary["text"] = TextStatistics(**text) if text else None
    values = {**row._mapping, "summary": DatasetSummary(**summary), "warnings": tuple(row.warnings)}
    return Dataset(**values)
