"""Images as a data set of torch: read, decoded and changed one at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from services.trainer.work.images.archive import Entry, ImageArchive
from services.trainer.work.images.augment import draw_seed
from services.trainer.work.images.pixels import Transform, decode


class ImageExamples(Dataset[Mapping[str, Any]]):
    """The examples of a data set: `pixel_values`, a tensor (3, size, size), and the label's index."""

    def __init__(
        self,
        archive: ImageArchive,
        entries: Sequence[Entry],
        labels: Sequence[str],
        transform: Transform,
        seed: int | None = None,
    ) -> None:
        """Read `entries`; with a seed, what `transform` draws depends on it, the epoch and the example."""
        index = {label: position for position, label in enumerate(labels)}
        self._archive = archive
        self._items = [(entry.name, index[entry.label]) for entry in entries]
        self._transform = transform
        self._seed = seed
        self.epoch = 0
        """Set before each epoch; a loader's processes are forked after that."""

    @property
    def targets(self) -> list[int]:
        """Every example's label, as an index."""
        return [label for _, label in self._items]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        name, label = self._items[index]
        picture = decode(self._archive.read(name), name)
        return {"pixel_values": self._transformed(picture, index), "labels": label}

    def _transformed(self, picture: torch.Tensor, index: int) -> torch.Tensor:
        if self._seed is None:
            return self._transform(picture)
        # The transforms know the global generator only. Dropout draws from it too: it gets its place back.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(draw_seed(self._seed, self.epoch, index))
        try:
            return self._transform(picture)
        finally:
            generator.set_state(state)
