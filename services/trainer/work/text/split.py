"""Which rows are held out: decided by the seed and what the rows say, so that copies of a row stay together.

A copy of a training row among the held-out ones would show what was learned by heart as if it had been
understood.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from services.trainer.work.errors import BadItem


def row_key(row: Mapping[str, Any], seed: int) -> int:
    """Return 64 bits that depend on a row's content and the seed alone."""
    content = json.dumps(row, sort_keys=True, ensure_ascii=True).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big")


def held_out_below(keys: np.ndarray, share: float) -> int:
    """Return the key up to which rows are held out: about `share` of `keys`, of shape (rows); -1: none.

    Raises:
        BadItem: something is to be held out, and all rows are the same.
    """
    if share == 0:
        return -1
    different = np.unique(keys)
    if len(different) < 2:
        what = "one row" if len(keys) < 2 else f"{len(keys)} rows that are all the same"
        raise BadItem.of("the data set", f"{what} cannot be both trained on and held out")
    wanted = max(1, round(len(keys) * share))
    # What is left to train on has another key than the last.
    return int(min(np.sort(keys)[min(wanted, len(keys)) - 1], different[-2]))
