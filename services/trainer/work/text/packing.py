"""Packing: several sequences in one row of the full length, none of which sees another.

Best-fit decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling"), as trl's strategy `bfd`
has it, over the lengths alone: the tokens are put together when a row is read, and are on the disk once.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from torch.utils.data import Dataset

from services.trainer.work.text.tokenfile import TokenRows


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Return bins of positions in `lengths`, none with a sum above `capacity`.

    The longest goes first, each into the fullest bin that still holds it. No length is above `capacity`.
    """
    bins: list[list[int]] = []
    with_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []
    # Stable, so that equal data is packed equally.
    for position in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = int(lengths[position])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            number, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[at]
            number = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(at)
        bins[number].append(position)
        left = room - length
        if left:
            if not with_room[left]:
                insort(rooms, left)
            with_room[left].append(number)
    return bins


class PackedRows(Dataset[Mapping[str, list[int]]]):
    """Rows put together: `input_ids`, `labels`, and `seq_lengths`, by which they are told apart."""

    def __init__(self, rows: TokenRows, capacity: int) -> None:
        """Pack `rows`, none of which is longer than `capacity`."""
        bins = best_fit_decreasing(rows.sizes("input_ids").tolist(), capacity)
        self._rows = rows
        # Two arrays instead of as many lists as there are rows.
        self._order = np.fromiter((position for each in bins for position in each), dtype=np.uint32)
        self._ends = np.cumsum([len(each) for each in bins], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each row, of shape (rows)."""
        sizes = self._rows.sizes("input_ids")[self._order].astype(np.int64)
        return np.add.reduceat(sizes, np.concatenate(([0], self._ends[:-1])))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Mapping[str, list[int]]:
        start = int(self._ends[index - 1]) if index else 0
        parts = [self._rows[int(position)] for position in self._order[start : int(self._ends[index])]]
        return {
            "input_ids": [token for part in parts for token in part["input_ids"]],
            "labels": [label for part in parts for label in part["labels"]],
            "seq_lengths": [len(part["input_ids"]) for part in parts],
        }
