"""The recipe of direct preference optimisation: of two answers, make the better one likelier.

The loss compares the policy with a reference, which is what it was before (Rafailov et al. 2023). With an
adapter the reference is the model with its adapter off. Without one it is a second model, or that model's
log-probabilities, computed once beforehand: the same losses for half the memory.
"""

from collections.abc import Mapping, Sized
from copy import deepcopy
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from services.common.errors import InvalidModel
from services.common.specs import (
    CheckpointOptions,
    EvaluationOptions,
    Precision,
    PreferenceOptions,
    TrainingSpec,
)
from services.trainer.recipes.fields import need
from services.trainer.recipes.language_model import build_language_model
from services.trainer.recipes.precision import choose_precision
from services.trainer.recipes.recipe import Hardware, Recipe, TensorShape, Weights
from services.trainer.recipes.text import (
    adapter_of,
    finish,
    max_length,
    no_data,
    refuse_what_is_missing,
    refused_by_peft,
    stand_in_tokenizer,
    targets_in_words,
    text_arguments,
)
from services.trainer.recipes.trainer import Example, RecipeTrainer

_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
_REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")


class DpoTrainer(RecipeTrainer, DPOTrainer):
    """trl's trainer on rows of `prompt_ids`, `chosen_ids` and `rejected_ids`."""

    def attach(
        self,
        train: Dataset[Example],
        evaluation: Dataset[Example] | None,
        when_to_evaluate: EvaluationOptions,
        when_to_save: CheckpointOptions,
    ) -> None:
        """Give it data. A reference that is computed beforehand is computed now, with the weights as is.

        Call it before a checkpoint is read: the reference is what the job began with.
        """
        if self.precompute_ref_logps:
            train = self._with_reference(train)
            evaluation = None if evaluation is None else self._with_reference(evaluation)
        super().attach(train, evaluation, when_to_evaluate, when_to_save)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        # Rows come tokenised.
        return dataset

    def _with_reference(self, rows: Dataset[Example]) -> Dataset[Example]:
        # Each of several devices computes a part: every so many rows.
        count, devices = len(cast(Sized, rows)), self.args.world_size
        own = Subset(rows, range(self.args.process_index, count, devices))
        batches = DataLoader(
            own, batch_size=self.args.per_device_train_batch_size, collate_fn=self.data_collator
        )
        found: list[tuple[float, float]] = []
        for batch in batches:
            sides = self.compute_ref_log_probs(self.model, self._prepare_inputs(batch))  # type: ignore[no-untyped-call]
            found += zip(*(side.tolist() for side in sides), strict=True)
        parts = [found] * devices
        if devices > 1:
            torch.distributed.all_gather_object(parts, found)
        both = [parts[index % devices][index // devices] for index in range(count)]
        return _Referred(rows, [chosen for chosen, _ in both], [rejected for _, rejected in both])


class _Referred(Dataset[Example]):
    """Rows with the reference's log-probabilities of both answers."""

    def __init__(self, rows: Dataset[Example], chosen: list[float], rejected: list[float]) -> None:
        self._rows = rows
        self._chosen = chosen
        self._rejected = rejected

    def __len__(self) -> int:
        return len(cast(Sized, self._rows))

    def __getitem__(self, index: int) -> Example:
        values = (self._chosen[index], self._rejected[index])
        return {**self._rows[index], **dict(zip(_REFERENCE, values, strict=True))}


class _NoReference(nn.Module):
    """Stands, while trl builds its trainer, where it would otherwise load a second model from the hub."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config = config


def build(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None = None,
    *,
    hardware: Hardware = Hardware(),  # noqa: B008 - frozen
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RecipeTrainer:
    """Return the Trainer of a resolved spec, without data; without weights, from random ones.

    Raises:
        InvalidSpec, NotAvailable: the spec asks for what hardware, model or this version does not have.
        InvalidModel: the architecture is no causal language model, or the weights are not its own.
    """
    if config.is_encoder_decoder:
        detail = "preferences are learned by decoder-only models; this one has an encoder: use sft"
        raise InvalidModel(model=config.model_type, detail=detail)
    refuse_what_is_missing(spec, hardware)
    precision = choose_precision(spec.precision or Precision.AUTO, hardware)
    set_seed(need(spec.seed, "seed"))
    built = build_language_model(spec, config, weights, precision, hardware)
    model = built.model
    notices = (*built.notices, *targets_in_words(spec, model), _reference_in_words(spec))
    try:
        trainer = DpoTrainer(
            model=model,
            ref_model=_reference_of(spec, model),
            args=_arguments(spec, precision, hardware),
            train_dataset=no_data(_COLUMNS),
            processing_class=tokenizer or stand_in_tokenizer(),
            peft_config=adapter_of(spec, model),
        )
    except ValueError as error:
        raise refused_by_peft(spec, error) from error
    if _precomputes(spec):
        trainer.ref_model = None
        trainer.precompute_ref_logps = True
    return finish(trainer, precision, *notices)


def worst_batch(spec: TrainingSpec, config: PreTrainedConfig) -> Mapping[str, TensorShape]:
    """Return the shapes of the largest batch: both answers of every pair, each of the full length."""
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    both = TensorShape((2 * batch, max_length(spec)), "int64")
    shapes = dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), both)
    if _precomputes(spec):
        shapes |= dict.fromkeys(_REFERENCE, TensorShape((batch,), "float32"))
    return shapes


def _arguments(spec: TrainingSpec, precision: Precision, hardware: Hardware) -> DPOConfig:
    preference = spec.preference or PreferenceOptions()
    return DPOConfig(
        **text_arguments(spec, precision, hardware),
        beta=need(preference.beta, "preference.beta"),
        loss_type=list(preference.loss_type),
        loss_weights=list(preference.loss_weights) or None,
        label_smoothing=preference.label_smoothing or 0.0,
    )


def _precomputes(spec: TrainingSpec) -> bool:
    asked = (spec.preference or PreferenceOptions()).precompute_ref_log_probs
    return spec.lora is None and asked is not False


def _reference_of(spec: TrainingSpec, model: PreTrainedModel) -> Any:
    """Return what trl is to take for the reference. None: the model without its adapter."""
    if spec.lora is not None:
        return None
    # Never by name: trl would load what the model once was from disk, which is not what the job begins with.
    return _NoReference(model.config) if _precomputes(spec) else deepcopy(model)


def _reference_in_words(spec: TrainingSpec) -> str:
    if spec.lora is not None:
        return "reference: the model with its adapter off"
    if _precomputes(spec):
        return "reference: log-probabilities computed once, before the first step"
    return "reference: a second model, which takes as much memory as the first one's weights"


RECIPE = Recipe(build=build, worst_batch=worst_batch)
