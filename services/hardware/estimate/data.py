"""What a spec asks of its data: the right kind, enough of it, and a batch that it can fill."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.errors import InvalidSpec
from services.common.specs import DatasetFormat, DatasetSummary, Task, TrainingSpec
from services.hardware.estimate.architecture import Architecture
from services.hardware.estimate.rules import rows
from services.hardware.estimate.rules.vocabulary import refuse_other_vocabulary
from services.hardware.estimate.sources.source import Source

_FORMATS = {
    Task.IMAGE_CLASSIFICATION: (DatasetFormat.IMAGE_FOLDER_ZIP,),
    Task.SFT: (DatasetFormat.JSONL, DatasetFormat.PARQUET, DatasetFormat.CSV),
    Task.DPO: (DatasetFormat.JSONL, DatasetFormat.PARQUET, DatasetFormat.CSV),
}
# A photo of a good camera; what a check without a data set assumes.
_ASSUMED_PIXELS = 12_000_000
_ASSUMED_EXAMPLES = 10_000
_ASSUMED_LABELS = 10


@dataclass(frozen=True)
class Split:
    """How many examples are trained on, and how many are held out."""

    training: int
    held_out: int


def assumed_dataset(spec: TrainingSpec) -> DatasetSummary:
    """Return a data set of a usual size, for a check that has none. It has no digest: it starts nothing."""
    images = spec.task is Task.IMAGE_CLASSIFICATION
    return DatasetSummary(
        name=spec.dataset,
        digest="",
        size_bytes=0,
        format=_FORMATS[spec.task][0],
        example_count=_ASSUMED_EXAMPLES,
        max_pixels=_ASSUMED_PIXELS if images else 0,
    )


def assumed_labels(spec: TrainingSpec) -> tuple[str, ...]:
    """Return the labels of a data set that is not known: those that the spec picks, else ten."""
    picked = () if spec.image is None else spec.image.labels
    return tuple(sorted(picked)) or tuple(f"label_{index}" for index in range(_ASSUMED_LABELS))


def refuse_wrong_format(spec: TrainingSpec, dataset: DatasetSummary) -> None:
    """Pass a data set that the task can read. Raises InvalidSpec."""
    formats = _FORMATS[spec.task]
    if dataset.format not in formats:
        limit = f"it is {dataset.format}, and {spec.task} reads {' or '.join(formats)}"
        raise InvalidSpec("dataset", dataset.name, limit)


def refuse_other_rows(spec: TrainingSpec, dataset: DatasetSummary) -> None:
    """Pass rows that the task and its loss are made for. Raises InvalidSpec."""
    for problem in (*rows.shape(spec, dataset), *rows.loss(spec, dataset)):
        raise problem


def refuse_unreadable_rows(
    spec: TrainingSpec, dataset: DatasetSummary, source: Source, architecture: Architecture
) -> None:
    """Pass rows that the model's tokenizer can turn into what the model takes.

    Raises:
        InvalidSpec: there is no template for conversations, or the model needs other rows.
        InvalidModel: it has no tokenizer, or another model's.
    """
    refuse_other_vocabulary(spec, source, architecture)
    if architecture.has_encoder:
        for problem in rows.encoder(spec, dataset):
            raise problem
    for problem in rows.template(spec, dataset, source.processor.chat_template):
        raise problem


def split(validation_split: float, example_count: int, counts: Mapping[str, int]) -> Split:
    """Return how the data is divided; with labels, label by label, so that each keeps its share.

    Raises:
        InvalidSpec: a label would stand on one side only, or nothing would be left to train on.
    """
    if validation_split == 0:
        return Split(sum(counts.values()) or example_count, 0)
    held_out = {label: held_out_of(validation_split, count) for label, count in counts.items()}
    for label, count in counts.items():
        if not 0 < held_out[label] < count:
            limit = (
                f"label {label!r} has {count} image(s), too few for both sides: add images, or set it to 0"
            )
            raise InvalidSpec("evaluation.validation_split", validation_split, limit)
    total = sum(counts.values()) or example_count
    held = sum(held_out.values()) or held_out_of(validation_split, example_count)
    if held < 1:
        limit = f"{total} example(s) are too few for both sides: add data, or set it to 0"
        raise InvalidSpec("evaluation.validation_split", validation_split, limit)
    return Split(total - held, held)


def held_out_of(validation_split: float, count: int) -> int:
    """Return how many of `count` examples are held out, as the trainer does it: at least one, never all."""
    return min(count - 1, max(1, round(count * validation_split)))


def refuse_impossible_batch(spec: TrainingSpec, parts: Split) -> None:
    """Pass a filled spec whose batch and warm-up the data can fill. Raises InvalidSpec."""
    training = spec.training
    assert training is not None
    batch = training.per_device_train_batch_size or 1
    if batch > parts.training:
        limit = f"only {parts.training} example(s) are trained on: use at most that"
        raise InvalidSpec("training.per_device_train_batch_size", batch, limit)
    steps = total_steps(spec, parts)
    warmup = training.warmup_steps or 0.0
    if warmup >= 1 and warmup > steps:
        limit = f"the training has {steps} step(s) in all: use fewer, or a share below 1"
        raise InvalidSpec("training.warmup_steps", warmup, limit)


def total_steps(spec: TrainingSpec, parts: Split) -> int:
    """Return the optimiser steps of a filled spec."""
    training = spec.training
    assert training is not None
    if training.max_steps:
        return training.max_steps
    # As transformers counts: the last batch of an epoch may be small, and is a step of its own.
    batches = math.ceil(parts.training / (training.per_device_train_batch_size or 1))
    per_epoch = max(1, math.ceil(batches / (training.gradient_accumulation_steps or 1)))
    return math.ceil(per_epoch * (training.num_train_epochs or 1.0))
