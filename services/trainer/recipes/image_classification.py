"""The recipe of image classification: a picture in, one of the data set's labels out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    EvalPrediction,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from services.common.errors import NotAvailable
from services.common.specs import PlacementOptions, Precision, TrainingSpec
from services.trainer.recipes.adapter import add_adapter
from services.trainer.recipes.arguments import argument_values
from services.trainer.recipes.fields import need
from services.trainer.recipes.model import build_model
from services.trainer.recipes.placement import refuse_sharding
from services.trainer.recipes.precision import choose_precision
from services.trainer.recipes.recipe import Hardware, Recipe, TensorShape, Weights
from services.trainer.recipes.trainer import RecipeTrainer

_CHANNELS = 3


def build(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None = None,
    *,
    hardware: Hardware = Hardware(),  # noqa: B008 - frozen
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RecipeTrainer:
    """Return the Trainer of a resolved spec, without data; without weights, from random ones.

    The loss is the model's own cross-entropy. What is random, head and adapter, depends on the seed alone.

    Raises:
        InvalidSpec, NotAvailable: the spec asks for what hardware, model or this version does not have.
        InvalidModel: the architecture classifies no images, or the weights are not its own.
    """
    _refuse_what_is_missing(spec)
    precision = choose_precision(spec.precision or Precision.AUTO, hardware)
    seed = need(spec.seed, "seed")
    set_seed(seed)
    built = build_model(spec, config, weights, precision, hardware)
    # Again: the adapter is the same whether the base was read or drawn.
    set_seed(seed)
    trainer = RecipeTrainer(
        model=add_adapter(built.model, spec.lora),
        args=TrainingArguments(**argument_values(spec, precision, hardware)),
        data_collator=collate,
        compute_metrics=score,
    )
    trainer.average_micro_batches()
    trainer.notices = (*built.notices, f"precision: {precision.value}")
    return trainer


def worst_batch(spec: TrainingSpec, config: PreTrainedConfig) -> Mapping[str, TensorShape]:
    """Return the shapes of the largest batch, which is the first one too: `pixel_values` and `labels`."""
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    size = need(need(spec.image, "image").image_size, "image.image_size")
    return {
        "pixel_values": TensorShape((batch, _CHANNELS, size, size), "float32"),
        "labels": TensorShape((batch,), "int64"),
    }


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch: `pixel_values` of shape (batch, 3, height, width) and `labels` of shape (batch)."""
    return {
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
    }


def score(prediction: EvalPrediction) -> dict[str, float]:
    """Return top-1 accuracy and the mean of the labels' F1 scores."""
    logits = np.asarray(prediction.predictions)
    counts = confusion(np.asarray(prediction.label_ids), logits.argmax(axis=-1), logits.shape[-1])
    _, _, f1 = per_label(counts)
    return {"accuracy": float(np.trace(counts) / max(1, counts.sum())), "macro_f1": float(f1.mean())}


def confusion(truth: np.ndarray, guesses: np.ndarray, labels: int) -> np.ndarray:
    """Return the confusion matrix of shape (labels, labels): row the truth, column the guess."""
    counts = np.zeros((labels, labels), dtype=np.int64)
    np.add.at(counts, (truth, guesses), 1)
    return counts


def per_label(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision, recall and F1 of each label from a confusion matrix; 0 where one is not defined."""
    right = np.diag(counts).astype(float)
    precision = right / np.maximum(1, counts.sum(axis=0))
    recall = right / np.maximum(1, counts.sum(axis=1))
    f1 = 2 * precision * recall / np.maximum(1e-12, precision + recall)
    return precision, recall, f1


def _refuse_what_is_missing(spec: TrainingSpec) -> None:
    """Refuse what transformers would pass over, or do in its own way, without a word."""
    placement = spec.placement or PlacementOptions()
    refuse_sharding(placement)
    if placement.activation_offload or placement.expert_offload:
        raise NotAvailable("this version offloads nothing of image classifiers: leave the offloads out")
    if spec.quantization is not None:
        raise NotAvailable("this version quantises no image classifiers: leave `quantization` out")


RECIPE = Recipe(build=build, worst_batch=worst_batch)
