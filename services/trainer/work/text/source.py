"""The rows of a text data set, in their canonical spelling, as often as they are asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from services.common.errors import InvalidSpec
from services.common.specs import DatasetFormat, RowShape, Task
from services.common.text.reading import columns_of, place, read_rows
from services.common.text.rows import BadRow, RowFormat, convert, recognise, unrecognised, used_columns
from services.trainer.work.errors import BadItem
from services.trainer.work.text.split import row_key

_TEXT_FIELD = "text"


class TextSource:
    """A file of rows, all of one shape."""

    def __init__(self, path: Path, format: DatasetFormat, text_field: str) -> None:
        """Look at the file's columns.

        Raises:
            BadItem: it has none that could be trained on.
        """
        self._path = path
        self._file_format = format
        self._text_field = text_field or _TEXT_FIELD
        self._rows = self._recognised()

    @property
    def shape(self) -> RowShape:
        """What its rows say."""
        return self._rows.shape

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each row with its place in the file.

        Raises:
            BadItem: it cannot be read, or is not what the others are.
        """
        columns = used_columns(self._rows, self._text_field)
        try:
            for number, row in read_rows(self._path, self._file_format, columns):
                where = place(self._file_format, number)
                try:
                    yield where, convert(row, self._rows, self._text_field)
                except BadRow as error:
                    raise error.at(where) from None
        except BadRow as error:
            raise BadItem.of(error.item, error.detail) from error

    def keys(self, seed: int) -> np.ndarray:
        """Return 64 bits for each row, of shape (rows): the same for rows that say the same."""
        return np.fromiter((row_key(row, seed) for _, row in self.rows()), dtype=np.uint64)

    def _recognised(self) -> RowFormat:
        try:
            columns = columns_of(self._path, self._file_format)
            found = recognise(columns, self._text_field)
            if found is None:
                raise unrecognised(columns, self._text_field)
        except BadRow as error:
            raise BadItem.of("the data set", error.detail) from error
        return found


def check_task(task: Task, shape: RowShape) -> None:
    """Refuse a task that cannot learn from such rows.

    Raises:
        InvalidSpec: it cannot.
    """
    prefers = shape is RowShape.PREFERENCE
    if prefers and task is not Task.DPO:
        limit = "these rows are preferences (prompt, chosen, rejected), from which dpo learns: use that"
        raise InvalidSpec("task", task, limit)
    if task is Task.DPO and not prefers:
        limit = f"it learns from rows of prompt, chosen and rejected, and these are rows of {shape}: use sft"
        raise InvalidSpec("task", task, limit)
