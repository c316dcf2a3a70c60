"""How good an image classifier is, overall and for each label."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.trainer.recipes.image_classification import per_label


@dataclass(frozen=True)
class Confusion:
    """What is taken for what."""

    labels: Sequence[str]
    counts: np.ndarray
    """Of shape (labels, labels): row the truth, column the guess."""

    def by_label(self) -> dict[str, dict[str, float]]:
        """Return precision, recall, F1 and the number of held-out images of each label."""
        columns = (*per_label(self.counts), self.counts.sum(axis=1))
        names = ("precision", "recall", "f1", "support")
        return {
            label: {name: column[index].item() for name, column in zip(names, columns, strict=True)}
            for index, label in enumerate(self.labels)
        }

    def as_json(self) -> dict[str, Any]:
        """Return what `metrics.json` says of it."""
        matrix = {"labels": list(self.labels), "counts": self.counts.tolist()}
        return {"per_label": self.by_label(), "confusion_matrix": matrix}
