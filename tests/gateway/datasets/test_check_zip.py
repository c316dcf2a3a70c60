"""Every bad archive is refused by name, before and while it is unpacked."""

import io
import json
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gateway.datasets.check_zip import check
from gateway.datasets.checking import Checker
from gateway.datasets.limits import Broken, Limits
from gateway.settings import GatewaySettings
from services.common.errors import InvalidDataset
from tests.gateway.archives import archive, good, png

LIMITS = Limits(
    max_items=100,
    max_rows=100,
    max_unpacked_bytes=10_000_000,
    max_item_bytes=4_000_000,
    max_ratio=200,
    max_pixels=10_000,
    memory_bytes=1 << 30,
    timeout_s=60,
)


@pytest.fixture
def found(tmp_path: Path) -> Callable[[bytes], dict[str, Any]]:
    """Return what checks an archive's bytes."""

    def check_bytes(data: bytes) -> dict[str, Any]:
        path = tmp_path / "data.zip"
        path.write_bytes(data)
        return check(path, LIMITS)

    return check_bytes


Found = Callable[[bytes], dict[str, Any]]


def broken(found: Found, data: bytes) -> Broken:
    with pytest.raises(Broken) as caught:
        found(data)
    return caught.value


def with_entry(
    change: Callable[[zipfile.ZipInfo], None], name: str = "cat/odd.png", content: bytes = b"x"
) -> bytes:
    """Return a good archive with one more entry, changed."""
    data = io.BytesIO(archive(good()))
    with zipfile.ZipFile(data, "a") as file:
        info = zipfile.ZipInfo(name)
        change(info)
        file.writestr(info, content)
    return data.getvalue()


def test_a_good_archive_is_counted(found: Found) -> None:
    assert found(archive(good())) == {
        "example_count": 6,
        "labels": [("cat", 3), ("dog", 3)],
        "max_pixels": 16,
        "unpacked_bytes": sum(map(len, good().values())),
        "warnings": [],
    }


@pytest.mark.parametrize("top", ["data", "data/root"])
def test_folders_that_hold_everything_are_left_out(found: Found, top: str) -> None:
    nested = {f"{top}/{name}": content for name, content in good().items()}
    assert found(archive(nested))["labels"] == [("cat", 3), ("dog", 3)]


def test_what_operating_systems_leave_behind_is_ignored(found: Found) -> None:
    litter = {".DS_Store": b"x", "cat/Thumbs.db": b"x", "__MACOSX/cat/._0.png": b"x"}
    result = found(archive({**good(), **litter}))
    assert result["example_count"] == 6
    assert result["warnings"] == ["3 files of the operating system (such as .DS_Store) are ignored"]


def test_labels_that_differ_in_case_are_warned_of(found: Found) -> None:
    assert (
        "Cat and cat differ only in case" in found(archive({**good(), "Cat/1.png": png(77)}))["warnings"][0]
    )


def test_one_image_under_two_labels_is_warned_of(found: Found) -> None:
    same = {**good(), "cat/same.png": png(200), "dog/same.png": png(200)}
    assert found(archive(same))["warnings"] == [
        "the same image under different labels: cat/same.png = dog/same.png"
    ]


@pytest.mark.parametrize(
    ("name", "actual"),
    [
        ("../evil.png", "leads out of it"),
        ("cat/../../evil.png", "leads out of it"),
        ("/etc/evil.png", "absolute"),
        ("C:/evil.png", "absolute"),
        ("cat\\..\\..\\evil.png", "leads out of it"),
        ("cat\\evil.png", "backslash"),
        ("cat/ev\x01il.png", "control character"),
    ],
)
def test_names_that_lead_elsewhere(found: Found, name: str, actual: str) -> None:
    error = broken(found, archive({**good(), name: png()}))
    assert "evil" in error.item or "il.png" in error.item
    assert actual in error.actual


def test_a_name_with_a_hidden_end(found: Found) -> None:
    data = archive({**good(), "cat/nul_png": png()}).replace(b"cat/nul_png", b"cat/nul\0png")
    assert "control character" in broken(found, data).actual


def test_a_symbolic_link(found: Found) -> None:
    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    error = broken(found, with_entry(link, content=b"/etc/passwd"))
    assert (error.item, error.actual) == ("cat/odd.png", "a symbolic link")


def test_a_special_file(found: Found) -> None:
    def device(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFCHR | 0o666) << 16

    assert broken(found, with_entry(device)).actual == "a special file"


def test_an_encrypted_entry(found: Found) -> None:
    data = bytearray(archive(good()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.index(signature) + offset
        data[at] |= 1
    assert broken(found, bytes(data)).actual == "an encrypted entry"


def test_an_entry_that_is_packed_in_an_unusual_way(found: Found) -> None:
    error = broken(found, archive(good(), zipfile.ZIP_BZIP2))
    assert error.actual == "compression method 12"


def test_overlapping_entries(found: Found) -> None:
    """Point a second name at the bytes of the first, as bombs do a thousand times."""
    data = archive(good())
    start = struct.unpack("<I", data[-6:-2])[0]
    directory = data[start:-22]
    twin = directory[: directory.index(b"PK\x01\x02", 4)].replace(b"cat/0.png", b"cat/9.png")
    count = len(good()) + 1
    size = len(directory) + len(twin)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, start, 0)
    error = broken(found, data[:start] + directory + twin + end)
    assert error.limit == "entries that do not overlap"


def test_too_many_entries(found: Found) -> None:
    error = broken(found, archive({f"cat/{number}.png": b"" for number in range(101)}))
    assert (error.limit, error.actual) == ("at most 100 entries", "101")


def test_the_same_name_twice(found: Found) -> None:
    data = archive({**good(), "cat/9.png": png(9)}).replace(b"cat/9.png", b"cat/0.png")
    assert broken(found, data).limit == "every name once"


def test_a_compression_ratio_past_the_limit(found: Found) -> None:
    error = broken(found, archive({**good(), "cat/bomb.png": b"\0" * 3_000_000}))
    assert error.item == "cat/bomb.png"
    assert error.limit == "a compression ratio of at most 200"


def test_an_entry_past_the_limit(found: Found) -> None:
    error = broken(found, archive({**good(), "cat/big.png": bytes(4_000_001)}, zipfile.ZIP_STORED))
    assert (error.item, error.limit) == ("cat/big.png", "at most 4000000 bytes unpacked")


def test_an_archive_past_the_limit(found: Found) -> None:
    entries = {f"cat/{number}.png": bytes(3_500_000) for number in range(3)}
    error = broken(found, archive(entries, zipfile.ZIP_STORED))
    assert error.limit == "at most 10000000 bytes unpacked"


def test_an_archive_in_an_archive(found: Found) -> None:
    error = broken(found, archive({**good(), "cat/inner.zip": archive(good())}))
    assert error.item == "cat/inner.zip"


def test_a_file_that_is_no_image(found: Found) -> None:
    error = broken(found, archive({**good(), "dog/readme.txt": b"hello"}))
    assert error.item == "dog/readme.txt"
    assert "whole images" in error.limit


def test_more_pixels_than_allowed_cost_no_memory(found: Found) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(100))
    chunks = [
        struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each))
        for each in (header, data)
    ]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    error = broken(found, archive({**good(), "cat/bomb.png": bomb}))
    assert (error.item, error.limit, error.actual) == (
        "cat/bomb.png",
        "at most 10000 pixels",
        "60000 x 60000",
    )


def test_corrupt_images_among_good_ones_are_all_named(found: Found) -> None:
    whole = io.BytesIO()
    Image.effect_noise((40, 40), 50).save(whole, "JPEG")
    bad = {f"cat/bad{number}.jpg": whole.getvalue()[:400] for number in range(3)}
    error = broken(found, archive({**good(), **bad}))
    assert error.item == "cat/bad0.jpg, cat/bad1.jpg, cat/bad2.jpg"
    assert error.actual.startswith("3 files that are none: ")


def test_of_many_corrupt_images_twenty_are_named(found: Found) -> None:
    bad = {f"cat/bad{number:02}.png": png()[:30] for number in range(25)}
    error = broken(found, archive({**good(), **bad}))
    assert error.item.count("bad") == 20
    assert error.item.endswith(" and 5 more")


@pytest.mark.parametrize(
    ("entries", "actual"),
    [
        ({}, "no image at all"),
        ({"cat/.DS_Store": b"x"}, "no image at all"),
        ({"cat/1.png": png()}, "one: cat"),
        ({"1.png": png(), "cat/2.png": png()}, "a file outside of any"),
        ({"train/cat/1.png": png(), "test/cat/1.png": png()}, "the platform splits the data itself"),
        ({"cat/deep/1.png": png(), "dog/2.png": png()}, "folders in folders"),
    ],
)
def test_layouts_that_are_none(found: Found, entries: Mapping[str, bytes], actual: str) -> None:
    assert actual in broken(found, archive(entries)).actual


@pytest.mark.parametrize("cut", [10, -30])
def test_an_archive_that_is_broken_off(found: Found, cut: int) -> None:
    assert broken(found, archive(good())[:cut]).limit == "a zip file that is whole"


def test_an_image_whose_checksum_is_wrong(found: Found) -> None:
    data = bytearray(archive(good(), zipfile.ZIP_STORED))
    data[data.index(b"IDAT") + 5] ^= 0xFF
    assert broken(found, bytes(data)).item == "cat/0.png"


def test_the_process_has_no_credential_and_little_of_anything(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(archive(good()))
    probe = (
        "import resource, runpy, sys, atexit;"
        "atexit.register(lambda: print([resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS,"
        " resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)], file=sys.stderr));"
        "runpy.run_module('gateway.datasets.check_zip', run_name='__main__')"
    )
    command = [sys.executable, "-c", probe, str(path), json.dumps(vars(LIMITS))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["found"]["example_count"] == 6
    assert ended.stderr.strip().endswith(f"[{1 << 30}, 0, 32]")


async def test_a_check_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "data.zip"
    path.write_bytes(archive(good()))
    checker = Checker(GatewaySettings(check_timeout_s=0.001))
    with pytest.raises(InvalidDataset, match=r"at most 0\.001 s"):
        await checker.check(path, "data.zip", None)


async def ended_by(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check an archive in a process that ends as a shell does after a line."""
    path, program = tmp_path / "data.zip", tmp_path / "python"
    path.write_bytes(archive(good()))
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    await Checker(GatewaySettings()).check(path, "data.zip", None)


async def test_a_check_that_is_killed_is_the_archives_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidDataset, match="killed by signal 11"):
        await ended_by("kill -SEGV $$", tmp_path, monkeypatch)


async def test_a_check_that_cannot_start_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="No module named PIL"):
        await ended_by("echo No module named PIL >&2; exit 1", tmp_path, monkeypatch)
