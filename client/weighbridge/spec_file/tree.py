"""A spec as it was written: values with the lines they stand in, before the contract gives them types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True)
class Scalar:
    """One value. A field of type string takes `text`, so that `labels: [0, no]` means what it says."""

    text: str
    """As it was written."""
    value: Any
    """What it is by itself: None, a bool, a number or the text."""
    line: int = 0


@dataclass(frozen=True)
class Items:
    """A list."""

    items: "tuple[Tree, ...]"
    line: int = 0


@dataclass(frozen=True)
class Entry:
    """A key with what stands below it."""

    key: str
    tree: "Tree"
    line: int = 0


@dataclass(frozen=True)
class Keys:
    """A group of keys."""

    entries: tuple[Entry, ...]
    line: int = 0


Tree: TypeAlias = Scalar | Items | Keys


def from_plain(value: Any) -> Tree:
    """Return the tree of nested mappings, sequences and scalars."""
    if isinstance(value, Mapping):
        return Keys(tuple(Entry(str(key), from_plain(below)) for key, below in value.items()))
    # Text is a sequence as well; it is a scalar here.
    if isinstance(value, list | tuple):
        return Items(tuple(map(from_plain, value)))
    return Scalar("" if value is None else str(value), value)


def to_plain_value(tree: Tree) -> Any:
    """Return what a tree is by itself, for fields that hold anything."""
    if isinstance(tree, Keys):
        return {entry.key: to_plain_value(entry.tree) for entry in tree.entries}
    if isinstance(tree, Items):
        return [to_plain_value(item) for item in tree.items]
    return tree.value
