"""From an archive's folders to labels."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from zipfile import ZipInfo

from gateway.datasets.limits import Broken

# Left behind by operating systems, in folders and as files.
_IGNORED_FOLDERS = frozenset({"__MACOSX"})
_IGNORED_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A file with its label."""

    label: str
    entry: ZipInfo


def label_items(entries: Iterable[ZipInfo]) -> tuple[list[Item], list[str]]:
    """Return the labelled files and what looks wrong, in words.

    A file's label is its folder. Folders that hold everything, such as the archive's own name, are left out.

    Raises:
        Broken: a file lies elsewhere, or there are fewer than two labels.
    """
    files = {PurePosixPath(entry.filename).parts: entry for entry in entries}
    kept = {parts: entry for parts, entry in files.items() if not _is_ignored(parts)}
    warnings = _ignored_warning(len(files) - len(kept))
    depth = _common_depth(list(kept))
    items = [Item(_label(parts[depth:], entry), entry) for parts, entry in kept.items()]
    labels = sorted({item.label for item in items})
    if not items:
        raise Broken("the archive", "one folder of images per label", "no image at all")
    if len(labels) < 2:
        raise Broken("the archive", "at least two labels", f"one: {labels[0]}")
    return items, [*warnings, *_collision_warnings(labels), *_single_warnings(items)]


def _is_ignored(parts: tuple[str, ...]) -> bool:
    return parts[0] in _IGNORED_FOLDERS or parts[-1] in _IGNORED_FILES or parts[-1].startswith("._")


def _common_depth(names: list[tuple[str, ...]]) -> int:
    """Return how many folders all names have in common beyond `label/file`."""
    depth = 0
    while names and all(len(parts) > depth + 2 and parts[depth] == names[0][depth] for parts in names):
        depth += 1
    return depth


def _label(parts: tuple[str, ...], entry: ZipInfo) -> str:
    if len(parts) == 1:
        raise Broken(entry.filename, "every image in its label's folder", "a file outside of any")
    if len(parts) > 2:
        hint = "; folders such as train and test are not needed, the platform splits the data itself"
        raise Broken(
            entry.filename,
            "one folder per label and images in it",
            f"folders in folders{hint if parts[0].lower() in _SPLITS else ''}",
        )
    return parts[0]


def _ignored_warning(count: int) -> list[str]:
    return [f"{count} files of the operating system (such as .DS_Store) are ignored"] if count else []


def _collision_warnings(labels: Iterable[str]) -> list[str]:
    alike = defaultdict(list)
    for label in labels:
        alike[label.casefold()].append(label)
    return [
        f"the labels {' and '.join(same)} differ only in case: are they the same?"
        for same in alike.values()
        if len(same) > 1
    ]


def _single_warnings(items: Iterable[Item]) -> list[str]:
    counts = Counter(item.label for item in items)
    single = sorted(label for label, count in counts.items() if count == 1)
    if not single:
        return []
    more = f" and {len(single) - _SHOWN} more" if len(single) > _SHOWN else ""
    return [f"one image only, so none can be held out: {', '.join(single[:_SHOWN])}{more}"]
