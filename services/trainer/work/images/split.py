"""Which images are held out: the same share of every label, decided by the seed and the names alone."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.work.errors import BadItem
from services.trainer.work.images.archive import Entry


@dataclass(frozen=True)
class Split:
    """What is trained on, and what is held out."""

    train: tuple[Entry, ...]
    held_out: tuple[Entry, ...]


def stratified_split(entries: Sequence[Entry], share: float, seed: int) -> Split:
    """Hold out `share` of each label's entries, at least one, and leave at least one to train on.

    Raises:
        BadItem: a label has one entry only, and something is to be held out.
    """
    by_label: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.name):
        by_label[entry.label].append(entry)
    train, held_out = list[Entry](), list[Entry]()
    for label, members in sorted(by_label.items()):
        count = _held_out_count(label, len(members), share)
        # A generator a label: one more image of another changes nothing here.
        random.Random(f"{seed} {label}").shuffle(members)
        held_out += members[:count]
        train += members[count:]
    return Split(tuple(train), tuple(held_out))


def _held_out_count(label: str, count: int, share: float) -> int:
    if share == 0:
        return 0
    if count < 2:
        raise BadItem.of(
            label, "one image cannot be both trained on and held out: add more, or hold out nothing"
        )
    return min(count - 1, max(1, round(count * share)))
