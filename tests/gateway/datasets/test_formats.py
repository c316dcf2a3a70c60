"""Files are recognised by their bytes, by their name where those do not tell, and never mistaken."""

import pytest

from gateway.datasets.formats import decide
from services.common.errors import InvalidDataset
from services.common.specs import DatasetFormat
from tests.gateway.archives import archive, good

ZIP, JSONL = DatasetFormat.IMAGE_FOLDER_ZIP, DatasetFormat.JSONL
PARQUET, CSV = DatasetFormat.PARQUET, DatasetFormat.CSV


@pytest.mark.parametrize(
    ("beginning", "name", "kind"),
    [
        (archive(good()), "data.csv", ZIP),
        (b"PAR1....", "data.csv", PARQUET),
        (b'{"text": 1}', "", JSONL),
        (b'\xef\xbb\xbf \n{"text": 1}', "data.csv", JSONL),
        (b'[{"text": 1}]', "data.json", JSONL),
        (b"", "data.jsonl", JSONL),
        (b"oops", "data.ndjson", JSONL),
        ('{"a"'.encode("utf-16"), "", JSONL),
        (b"anything,at all\n", "data.CSV", CSV),
        (b"prompt,completion\r\na,b\r\n", "data", CSV),
        (b'\xef\xbb\xbf"text"\na', "", CSV),
    ],
)
def test_files_are_recognised(beginning: bytes, name: str, kind: DatasetFormat) -> None:
    assert decide(beginning, name, None) == kind


@pytest.mark.parametrize(
    ("beginning", "actual"),
    [
        (b"hello world", "a file that begins with 'hello world'"),
        (b"", "nothing: it is empty"),
        (b'"text', "a file that begins with"),
        (b"\xff\x00", "a file that begins with '\\xff\\x00'"),
        (b"\x1f\x8b\x08", "a file in the format gzip: unpack or convert it first"),
        (b"\x28\xb5\x2f\xfd", "a file in the format zstd"),
        (b"PARE....", "a file in the format encrypted Parquet"),
    ],
)
def test_other_files_are_refused_by_what_they_are(beginning: bytes, actual: str) -> None:
    with pytest.raises(InvalidDataset) as caught:
        decide(beginning, "my data", None)
    assert caught.value.item == "my data"
    assert actual in str(caught.value.actual)


@pytest.mark.parametrize(
    ("beginning", "announced", "message"),
    [
        (b"PAR1", JSONL, "JSON lines, as was announced, but found a Parquet file"),
        (b"PK\x03\x04", CSV, "a CSV file, as was announced, but found a zip file"),
        (b"PAR1", ZIP, "a zip file, as was announced, but found a Parquet file"),
        (b"hello", PARQUET, "a Parquet file, as was announced, but found a file that begins with 'hello'"),
    ],
)
def test_what_was_announced_is_not_believed(beginning: bytes, announced: DatasetFormat, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message):
        decide(beginning, "", announced)


def test_what_was_announced_decides_between_texts() -> None:
    assert decide(b"{,}\n1,2", "data.jsonl", CSV) == CSV
    assert decide(b"hello", "data.csv", JSONL) == JSONL
