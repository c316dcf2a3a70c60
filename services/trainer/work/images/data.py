"""A run's images: what is trained on and what is held out, from the zip that the service fetched."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.common.specs import ResolvedSpec
from services.trainer.recipes.fields import need
from services.trainer.recipes.image_classification import confusion
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.images.archive import ImageArchive, of_labels
from services.trainer.work.images.augment import augmenter
from services.trainer.work.images.examples import ImageExamples
from services.trainer.work.images.judging import Confusion
from services.trainer.work.images.pixels import ImageShape
from services.trainer.work.images.split import Split, stratified_split
from services.trainer.work.inputs import RunInputs


@dataclass(frozen=True)
class ImageData:
    """The examples, and what a report says of them; see `work.data.RunData`."""

    train: ImageExamples
    held_out: ImageExamples | None
    shape: ImageShape
    labels: tuple[str, ...]
    split: Split
    order: None = None
    """transformers' own: shuffled by the seed."""
    tokenizer: None = None

    def counts(self) -> Mapping[str, int]:
        """Return how many examples are trained on and held out."""
        return {"train": len(self.split.train), "held_out": len(self.split.held_out)}

    def facts(self) -> Mapping[str, Any]:
        """Return the names of the held-out images."""
        return {"held_out": [entry.name for entry in self.split.held_out]}

    def begin_epoch(self, epoch: int) -> None:
        """Let the epoch's augmentations differ from the last one's."""
        self.train.epoch = epoch

    def judge(self, trainer: RecipeTrainer, step: int) -> tuple[Mapping[str, float], Confusion | None]:
        """Return the figures of the weights that the trainer holds, and what they take for what."""
        if self.held_out is None:
            return {}, None
        predicted = trainer.predict(self.held_out, metric_key_prefix="eval")
        guesses = np.asarray(predicted.predictions).argmax(axis=-1)
        counts = confusion(np.asarray(predicted.label_ids), guesses, len(self.labels))
        return predicted.metrics or {}, Confusion(self.labels, counts)

    def save(self, draft: Path) -> None:
        """Write the image processor."""
        self.shape.save(draft)


def open_images(inputs: RunInputs, labels: tuple[str, ...]) -> ImageData:
    """List the archive's images and divide them. No image is read yet.

    Raises:
        BadItem: the archive does not hold what it was said to hold.
    """
    spec = inputs.resolved.spec
    image, seed = need(spec.image, "image"), need(spec.seed, "seed")
    archive = ImageArchive(inputs.dataset)
    entries = of_labels(archive.entries(), labels, only_these=bool(image.labels))
    share = (spec.evaluation.validation_split if spec.evaluation else None) or 0.0
    split = stratified_split(entries, share, seed)
    shape = _shape(inputs.resolved)
    held_out = ImageExamples(archive, split.held_out, labels, shape.prepare) if split.held_out else None
    train = ImageExamples(archive, split.train, labels, augmenter(image, shape), seed)
    return ImageData(train, held_out, shape, labels, split)


def _shape(resolved: ResolvedSpec) -> ImageShape:
    image = need(resolved.spec.image, "image")
    return ImageShape.of_source(need(image.image_size, "image.image_size"), resolved.model.processor_json)
