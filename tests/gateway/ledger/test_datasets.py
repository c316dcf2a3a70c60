"""Data sets come back as they were written down, also those of a version that knew nothing of text."""

from dataclasses import asdict, replace
from datetime import UTC, datetime

from sqlalchemy import update

from gateway.datasets.dataset import Dataset
from gateway.ledger.datasets import get_dataset, insert_dataset
from gateway.ledger.engine import Ledger
from gateway.ledger.tables import datasets
from services.common.specs import DatasetFormat, DatasetSummary, LabelCount, RowShape, TextStatistics

STATISTICS = TextStatistics(
    min_characters=1,
    median_characters=2,
    p95_characters=3,
    max_characters=4,
    duplicate_count=5,
    conversational=True,
)
CHATS = Dataset(
    project="research",
    id="chats",
    summary=DatasetSummary(
        name="projects/research/datasets/chats",
        digest="sha256:" + "0" * 64,
        size_bytes=100,
        format=DatasetFormat.JSONL,
        example_count=10,
        row_shape=RowShape.MESSAGES,
        text=STATISTICS,
    ),
    file_name="chats.jsonl",
    warnings=("one", "two"),
    caller="user/alice",
    upload="u1",
    create_time=datetime(2026, 1, 2, tzinfo=UTC),
)


async def test_the_lengths_of_rows_are_not_lost(ledger: Ledger) -> None:
    await ledger.write(lambda tx: insert_dataset(tx, CHATS))
    assert await ledger.read(lambda tx: get_dataset(tx, "research", "chats")) == CHATS


async def test_a_data_set_of_an_earlier_version_can_still_be_read(ledger: Ledger) -> None:
    labels = (LabelCount(label="cat", count=10),)
    images = replace(
        CHATS.summary, format=DatasetFormat.IMAGE_FOLDER_ZIP, labels=labels, row_shape=None, text=None
    )
    earlier = {name: value for name, value in asdict(images).items() if name not in ("row_shape", "text")}
    await ledger.write(lambda tx: insert_dataset(tx, replace(CHATS, summary=images)))
    await ledger.write(lambda tx: tx.execute(update(datasets).values(summary=earlier)))
    found = await ledger.read(lambda tx: get_dataset(tx, "research", "chats"))
    assert found is not None
    assert found.summary == images
