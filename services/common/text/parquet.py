"""The rows of a Parquet file, batch by batch, through pyarrow, which is loaded when there is one to read."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.common.text.badrow import BadRow

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import FileMetaData, ParquetFile

MAX_COLUMNS = 1_000
_BATCH_BYTES = 8 << 20
_BATCH_ROWS = 1_024
_BUFFER_BYTES = 1 << 20
# What a footer's own strings and lists may take: a few bytes can declare gigabytes of them.
_FOOTER_BYTES = 64 << 20
_FOOTER_ITEMS = 4 << 20


def read_parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield rows with their numbers from 1. Raises BadRow, MemoryError."""
    row = 0
    with _whole(lambda: f"row {row + 1}"), _opened(path) as file:
        chosen = _chosen(file, columns)
        for batch in file.iter_batches(_batch_rows(file.metadata), columns=chosen, use_threads=False):
            for values in _values(batch, row):
                row += 1
                yield row, values


def parquet_columns(path: Path) -> list[str]:
    """Return the columns of a file's schema. Raises BadRow."""
    with _whole(lambda: "the file"), _opened(path) as file:
        names: list[str] = file.schema_arrow.names
    if len(names) > MAX_COLUMNS:
        raise BadRow("", f"at most {MAX_COLUMNS} columns", f"{len(names)}", "the file")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadRow("", "every column once", f"{twice[0]!r} twice", "the file")
    return names


def parquet_facts(path: Path) -> tuple[int, int]:
    """Return the rows and the unpacked bytes that a file's footer declares. Raises BadRow."""
    with _whole(lambda: "the file"), _opened(path) as file:
        return file.metadata.num_rows, _unpacked_bytes(file.metadata)


@contextmanager
def _whole(place: Callable[[], str]) -> Iterator[None]:
    """Raise a BadRow at `place` for whatever pyarrow cannot read."""
    import pyarrow

    try:
        yield
    except MemoryError:
        raise
    except (pyarrow.ArrowException, OSError, NotImplementedError) as error:
        raise BadRow("", "a Parquet file that is whole", _said(error), place()) from None


def _opened(path: Path) -> "ParquetFile":
    from pyarrow.parquet import ParquetFile

    return ParquetFile(
        path,
        # Pages are read as they are needed, not a whole column of a row group at once.
        buffer_size=_BUFFER_BYTES,
        pre_buffer=False,
        thrift_string_size_limit=_FOOTER_BYTES,
        thrift_container_size_limit=_FOOTER_ITEMS,
    )


def _chosen(file: "ParquetFile", columns: Collection[str] | None) -> list[str] | None:
    # Asked for by name, a nested column comes with all of its fields.
    return None if columns is None else [name for name in file.schema_arrow.names if name in columns]


def _batch_rows(metadata: "FileMetaData") -> int:
    """Return how many rows make a batch of some megabytes."""
    row_bytes = _unpacked_bytes(metadata) // max(1, int(metadata.num_rows))
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))


def _unpacked_bytes(metadata: "FileMetaData") -> int:
    return sum(int(metadata.row_group(index).total_byte_size) for index in range(metadata.num_row_groups))


def _values(batch: "RecordBatch", before: int) -> list[dict[str, Any]]:
    try:
        values: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:
        raise _no_text(batch, before) from None
    return values


def _no_text(batch: "RecordBatch", before: int) -> BadRow:
    """Return the error for the first row of a batch whose text is none."""
    for row in range(batch.num_rows):
        for name in batch.schema.names:
            try:
                batch.column(name)[row].as_py()
            except UnicodeDecodeError as error:
                found = f"the byte 0x{error.object[error.start]:02x}"
                return BadRow(name, "text in UTF-8", found, f"row {before + row + 1}")
    return BadRow("", "text in UTF-8", "other bytes", f"row {before + 1}")


def _said(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
