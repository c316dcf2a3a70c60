"""Which labels a classifier learns, and what its configuration says of them."""

from collections.abc import Mapping
from typing import Any

from transformers import PretrainedConfig

from services.common.errors import InvalidSpec
from services.common.specs import DatasetSummary, TrainingSpec
from services.hardware.estimate.nearest import did_you_mean


def choose_labels(spec: TrainingSpec, dataset: DatasetSummary) -> tuple[str, ...]:
    """Return the labels to learn, sorted: those that the spec picks, else all of the data set's.

    Raises:
        InvalidSpec: the data set lacks one, or fewer than two are left.
    """
    known = {count.label for count in dataset.labels}
    picked = () if spec.image is None else spec.image.labels
    for label in picked:
        if label not in known:
            limit = f"{dataset.name} has no such label{did_you_mean(label, known)}"
            raise InvalidSpec("image.labels", label, limit)
    labels = tuple(sorted(picked or known))
    if len(labels) < 2:
        found = ", ".join(labels) or "(none)"
        raise InvalidSpec("image.labels", found, "a classifier needs at least 2 labels to tell apart")
    return labels


def count_by_label(labels: tuple[str, ...], dataset: DatasetSummary) -> dict[str, int]:
    """Return how many examples each of the labels has."""
    counts = {count.label: count.count for count in dataset.labels}
    return {label: counts[label] for label in labels}


def set_labels(config: PretrainedConfig, labels: tuple[str, ...], *, pretrained: bool) -> list[str]:
    """Write the labels into a configuration; return what a person should know about it."""
    before = _names(config.id2label)
    # In this order: setting the number anew writes LABEL_0, LABEL_1, … over the names.
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    # Unless told, transformers takes a single label for a regression.
    config.problem_type = "single_label_classification"
    if not pretrained or before == list(labels):
        return []
    return [
        f"the model knows {_briefly(before)}; this job learns {_briefly(list(labels))}, "
        "so its head is new and initialised at random"
    ]


def _names(id2label: Mapping[Any, str] | None) -> list[str]:
    return [str(label) for _, label in sorted((id2label or {}).items(), key=lambda item: int(item[0]))]


def _briefly(labels: list[str]) -> str:
    more = f", … ({len(labels)})" if len(labels) > 5 else ""
    return f"{', '.join(labels[:5])}{more}"
