"""The order of training rows: shuffled anew in each epoch, and in the first one the longest rows first."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class LongestFirst(Sampler[int]):
    """Positions of rows, decided by seed and epoch alone, so that a run that goes on meets the same order.

    The rows of the first steps are the longest of all: a job that does not fit fails there, and not after
    hours in whichever batch is the largest. The second step counts too: what an optimiser keeps is there
    from the end of the first step on.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, seed: int, first: int) -> None:
        """Order rows of `lengths`, with the `first` longest in front of the first epoch's others."""
        self._lengths = np.asarray(lengths)
        self._seed = seed
        self._first = first
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Shuffle for an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        shuffled = np.random.default_rng((self._seed, self.epoch)).permutation(len(self._lengths))
        if self.epoch == 0:
            longest = np.argsort(-self._lengths[shuffled].astype(np.int64), kind="stable")[: self._first]
            others = np.delete(shuffled, longest)
            shuffled = np.concatenate((shuffled[longest], others))
        return iter(shuffled.tolist())
