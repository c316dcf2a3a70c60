"""A zip's table of contents, checked before anything is unpacked."""

import stat
import struct
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from gateway.datasets.limits import Broken, Limits

_LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1
_METHODS = (ZIP_STORED, ZIP_DEFLATED)
# Below it a high ratio is no bomb: a small drawing in one colour packs that well.
_RATIO_FROM_BYTES = 1 << 20


def check_entries(archive: ZipFile, limits: Limits) -> list[ZipInfo]:
    """Return the archive's files. Raises Broken for the first entry that breaks a rule."""
    entries = archive.infolist()
    if len(entries) > limits.max_items:
        raise Broken("the archive", f"at most {limits.max_items} entries", f"{len(entries)}")
    seen: set[str] = set()
    for entry in entries:
        _check_name(entry)
        _check_kind(entry)
        _check_size(entry, limits)
        if entry.filename in seen:
            raise Broken(entry.filename, "every name once", "a second entry of that name")
        seen.add(entry.filename)
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > limits.max_unpacked_bytes:
        raise Broken("the archive", f"at most {limits.max_unpacked_bytes} bytes unpacked", f"{unpacked}")
    assert archive.fp is not None
    _check_overlap(archive.fp, entries, archive.start_dir)
    return [entry for entry in entries if not entry.is_dir()]


def _check_name(entry: ZipInfo) -> None:
    # zipfile cuts a name at a NUL: what was written is in orig_filename.
    name = entry.orig_filename
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or name[1:2] == ":":
        raise Broken(_shown(name), "names relative to the archive", "an absolute name")
    if ".." in parts or ".." in name.split("\\"):
        raise Broken(_shown(name), "names inside the archive", "a name that leads out of it")
    if "\\" in name:
        raise Broken(_shown(name), "`/` between folders", "a backslash")
    if not name or any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise Broken(_shown(name), "printable names", "a control character")


def _check_kind(entry: ZipInfo) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise Broken(entry.filename, "files and folders only", "a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Broken(entry.filename, "files and folders only", "a special file")
    if entry.flag_bits & _ENCRYPTED:
        raise Broken(entry.filename, "entries without a password", "an encrypted entry")
    if entry.compress_type not in _METHODS:
        raise Broken(
            entry.filename, "entries stored or deflated", f"compression method {entry.compress_type}"
        )


def _check_size(entry: ZipInfo, limits: Limits) -> None:
    if entry.file_size > limits.max_item_bytes:
        raise Broken(entry.filename, f"at most {limits.max_item_bytes} bytes unpacked", f"{entry.file_size}")
    ratio = entry.file_size / max(1, entry.compress_size)
    if entry.file_size > _RATIO_FROM_BYTES and ratio > limits.max_ratio:
        raise Broken(entry.filename, f"a compression ratio of at most {limits.max_ratio}", f"{ratio:.0f}")


def _check_overlap(file: IO[bytes], entries: Iterable[ZipInfo], directory_start: int) -> None:
    """Refuse entries that share bytes: thousands of entries can unpack the same few over and over."""
    end, before = 0, ""
    for entry in sorted(entries, key=lambda each: each.header_offset):
        if entry.header_offset < end:
            raise Broken(entry.filename, "entries that do not overlap", f"bytes shared with {before}")
        file.seek(entry.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
            raise Broken(entry.filename, "an archive that is whole", "an entry without its header")
        *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        end = entry.header_offset + _LOCAL_HEADER.size + name_size + extra_size + entry.compress_size
        before = entry.filename
    if end > directory_start:
        raise Broken(before, "an archive that is whole", "an entry that runs into the table of contents")


def _shown(name: str) -> str:
    return name if name.isprintable() else repr(name)
