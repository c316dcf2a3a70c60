"""A run's data: what is trained on and what is held out, from the zip that the service fetched."""

from collections.abc import Mapping
from dataclasses import dataclass

from services.common.specs import ResolvedSpec
from services.trainer.recipes.fields import need
from services.trainer.work.images.archive import ImageArchive, of_labels
from services.trainer.work.images.augment import augmenter
from services.trainer.work.images.examples import ImageExamples
from services.trainer.work.images.pixels import ImageShape
from services.trainer.work.images.split import Split, stratified_split
from services.trainer.work.inputs import RunInputs


@dataclass(frozen=True)
class RunData:
    """The examples, and what a report says of them."""

    train: ImageExamples
    held_out: ImageExamples | None
    shape: ImageShape
    labels: tuple[str, ...]
    split: Split

    def counts(self) -> Mapping[str, int]:
        """Return how many examples are trained on and held out."""
        return {"train": len(self.split.train), "held_out": len(self.split.held_out)}


def open_data(inputs: RunInputs, labels: tuple[str, ...], seed: int) -> RunData:
    """List the archive's images and divide them. No image is read yet.

    Raises:
        BadItem: the archive does not hold what it was said to hold.
    """
    spec = inputs.resolved.spec
    image = need(spec.image, "image")
    archive = ImageArchive(inputs.dataset)
    entries = of_labels(archive.entries(), labels, only_these=bool(image.labels))
    share = (spec.evaluation.validation_split if spec.evaluation else None) or 0.0
    split = stratified_split(entries, share, seed)
    shape = _shape(inputs.resolved)
    held_out = ImageExamples(archive, split.held_out, labels, shape.prepare) if split.held_out else None
    train = ImageExamples(archive, split.train, labels, augmenter(image, shape), seed)
    return RunData(train, held_out, shape, labels, split)


def _shape(resolved: ResolvedSpec) -> ImageShape:
    image = need(resolved.spec.image, "image")
    return ImageShape.of_source(need(image.image_size, "image.image_size"), resolved.model.processor_json)
