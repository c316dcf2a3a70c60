import errno
import json
from pathlib import Path

import pytest

from services.common.atomic import open_atomic, publish_directory, write_bytes, write_json, write_text


def test_a_written_file_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    write_json(path, {"b": 1, "a": [2]})
    assert json.loads(path.read_text()) == {"a": [2], "b": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def write_half() -> None:
        with open_atomic(path) as file:
            file.write(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_seen_of_a_file_while_it_is_written(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "file") as file:
        file.write(b"x")
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    with open_atomic(tmp_path / "token", mode=0o600) as file:
        file.write(b"x")
        assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


def test_a_directory_is_published_whole_and_replaces_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below" / "file").write_text(name)
    publish_directory(tmp_path / "one", tmp_path / "target")
    assert (tmp_path / "target" / "below" / "file").read_text() == "one"
    with pytest.raises(OSError, match="not empty") as caught:
        publish_directory(tmp_path / "two", tmp_path / "target")
    assert caught.value.errno == errno.ENOTEMPTY
