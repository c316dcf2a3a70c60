"""What a file is, by its first bytes, and by its name where they do not tell."""

import codecs
import csv
from pathlib import Path

from services.common.errors import InvalidDataset
from services.common.specs import DatasetFormat
from services.common.text.rows import recognise as recognise_columns

BEGINNING_BYTES = 64 << 10

_TAKEN = "a zip of images with a folder per label, JSON lines, Parquet, or CSV with a header"
_MAGIC = {
    b"PK\x03\x04": DatasetFormat.IMAGE_FOLDER_ZIP,
    b"PK\x05\x06": DatasetFormat.IMAGE_FOLDER_ZIP,
    b"PAR1": DatasetFormat.PARQUET,
}
_SUFFIXES = {
    ".jsonl": DatasetFormat.JSONL,
    ".ndjson": DatasetFormat.JSONL,
    ".json": DatasetFormat.JSONL,
    ".csv": DatasetFormat.CSV,
}
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PARE": "encrypted Parquet",
    b"ORC": "ORC",
    b"ARROW1": "Arrow",
}
_NAMES = {
    DatasetFormat.IMAGE_FOLDER_ZIP: "a zip file",
    DatasetFormat.PARQUET: "a Parquet file",
    DatasetFormat.JSONL: "JSON lines",
    DatasetFormat.CSV: "a CSV file",
}


def decide(beginning: bytes, file_name: str, announced: DatasetFormat | None) -> DatasetFormat:
    """Return what a file is, given its first `BEGINNING_BYTES` bytes.

    Raises:
        InvalidDataset: it is nothing that can be trained on, or not what was announced.
    """
    item = file_name or "the file"
    packed = next((name for magic, name in _PACKED.items() if beginning.startswith(magic)), "")
    if packed:
        raise InvalidDataset(item, _TAKEN, f"a file in the format {packed}: unpack or convert it first")
    found = next((kind for magic, kind in _MAGIC.items() if beginning.startswith(magic)), None)
    if announced is not None:
        marked = announced in _MAGIC.values()
        if announced != found and (marked or found is not None):
            actual = _NAMES[found] if found else f"a file that begins with {_shown(beginning)}"
            raise InvalidDataset(item, f"{_NAMES[announced]}, as was announced", actual)
        return announced
    found = found or _of_text(beginning, file_name)
    if found is None:
        raise InvalidDataset(item, _TAKEN, f"a file that begins with {_shown(beginning)}")
    return found


def _of_text(beginning: bytes, file_name: str) -> DatasetFormat | None:
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        # No such text is taken, but whoever reads its lines says so best.
        return DatasetFormat.JSONL
    start = beginning.removeprefix(codecs.BOM_UTF8).lstrip()
    if start.startswith((b"{", b"[")):
        return DatasetFormat.JSONL
    suffix = Path(file_name).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    return DatasetFormat.CSV if _has_header(start) else None


def _has_header(start: bytes) -> bool:
    """Say whether a text begins with the names of columns that can be trained on."""
    header = start.splitlines()[0] if start else b""
    try:
        cells = next(csv.reader([header.decode()], strict=True), [])
    except (UnicodeDecodeError, csv.Error):
        return False
    return recognise_columns(cells) is not None


def _shown(beginning: bytes) -> str:
    return repr(beginning[:16])[1:] if beginning else "nothing: it is empty"
