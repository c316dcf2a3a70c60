"""A zip of one folder of images per label, read where it lies: nothing is unpacked onto a disk."""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.trainer.work.errors import BadItem

# What operating systems leave in a folder that somebody zips.
_CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
_LIMIT_BYTES = 512 << 20
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class Entry:
    """An image in the archive: its name there, and the folder that it stands in."""

    name: str
    label: str


class ImageArchive:
    """Reads images from a zip, also in the processes of a loader."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def entries(self) -> list[Entry]:
        """Return every image, sorted by name.

        Raises:
            BadItem: an entry is no plain file in a folder, or the file is no zip.
        """
        found = [_entry(info) for info in self._zip().infolist() if not _is_clutter(info)]
        return sorted(found, key=lambda entry: entry.name)

    def read(self, name: str) -> bytes:
        """Return an image's bytes.

        Raises:
            BadItem: they are damaged, or too many.
        """
        try:
            # What the header says is all that zipfile unpacks.
            if self._zip().getinfo(name).file_size > _LIMIT_BYTES:
                raise BadItem.of(name, f"it unpacks to more than {_LIMIT_BYTES >> 20} MiB")
            return self._zip().read(name)
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, KeyError, zlib.error) as error:
            raise BadItem.of(name, f"it cannot be unpacked: {error}") from error

    def _zip(self) -> zipfile.ZipFile:
        # A forked loader shares its parent's file position: each process opens its own.
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self._path))
            except (zipfile.BadZipFile, OSError) as error:
                raise BadItem.of("the data set", f"it cannot be read as a zip: {error}") from error
        return self._opened[1]


def of_labels(entries: Iterable[Entry], labels: tuple[str, ...], only_these: bool) -> list[Entry]:
    """Return the entries with one of the labels.

    Raises:
        BadItem: a label has no entry; or, unless `only_these`, an entry has another label.
    """
    chosen, known = [], set(labels)
    for entry in entries:
        if entry.label in known:
            chosen.append(entry)
        elif not only_these:
            raise BadItem.of(entry.name, f"its folder {entry.label!r} is none of the labels")
    for label in sorted(known - {entry.label for entry in chosen}):
        raise BadItem.of(label, "no image has this label")
    return chosen


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename).parts
    return info.is_dir() or any(part in _CLUTTER or part.startswith(".") for part in parts if part != "..")


def _entry(info: zipfile.ZipInfo) -> Entry:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
        raise BadItem.of(info.filename, "its name leads out of the archive")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise BadItem.of(info.filename, "it is a link")
    if info.flag_bits & _ENCRYPTED:
        raise BadItem.of(info.filename, "it is encrypted")
    if len(path.parts) < 2:
        raise BadItem.of(info.filename, "it stands in no folder, and folders are the labels")
    return Entry(info.filename, path.parts[-2])
