"""Rows of tokens on the run's own disk: memory holds where each row stands, and no token.

They are read, not mapped: pages of a mapped file would count as the run's own memory.
"""

import os
import weakref
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from torch.utils.data import Dataset

_TOKEN_BYTES = 4
_BUFFER_BYTES = 1 << 20


class TokenRows(Dataset[Mapping[str, list[int]]]):
    """Rows of named columns, each a list of numbers; read also by the processes of a loader."""

    def __init__(self, path: Path, columns: Sequence[str], sizes: "array[int]") -> None:
        """Read `path`, as `TokenWriter` wrote it; `sizes` holds the length of every column of every row."""
        self.columns = tuple(columns)
        self._sizes = np.array(sizes, dtype=np.uint32).reshape(-1, len(self.columns))
        self._starts = np.zeros(len(self._sizes) + 1, dtype=np.int64)
        np.cumsum(self._sizes.sum(axis=1, dtype=np.int64), out=self._starts[1:])
        # A position is given with each read, so that forked processes do not share one.
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def sizes(self, column: str) -> np.ndarray:
        """Return the length of a column in every row, of shape (rows)."""
        sizes: np.ndarray = self._sizes[:, self.columns.index(column)]
        return sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Mapping[str, list[int]]:
        start, end = self._starts[index : index + 2] * _TOKEN_BYTES
        tokens = np.frombuffer(os.pread(self._handle, end - start, start), dtype=np.int32).tolist()
        row, position = dict[str, list[int]](), 0
        for column, size in zip(self.columns, self._sizes[index].tolist(), strict=True):
            row[column] = tokens[position : position + size]
            position += size
        return row


class TokenWriter:
    """Writes rows for `TokenRows`; closes its file at the end of a `with`."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Write rows of `columns` to `path`, which is replaced."""
        self._path = path
        self._columns = tuple(columns)
        self._sizes = array("I")
        self._file = path.open("wb", buffering=_BUFFER_BYTES)

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, row: Mapping[str, Sequence[int]]) -> None:
        """Write a row."""
        for column in self._columns:
            self._sizes.append(len(row[column]))
            self._file.write(np.asarray(row[column], dtype=np.int32).tobytes())

    def rows(self) -> TokenRows:
        """Return what was written. The file has no name any more: it is gone with the process."""
        rows = TokenRows(self._path, self._columns, self._sizes)
        self._path.unlink()
        return rows
