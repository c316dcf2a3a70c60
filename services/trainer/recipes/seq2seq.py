"""Supervised fine-tuning of models with an encoder, such as Switch and T5: a prompt in, a completion out."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from services.common.errors import InvalidSpec
from services.common.specs import PlacementOptions, Precision, TextOptions, TrainingSpec
from services.trainer.recipes.adapter import add_adapter
from services.trainer.recipes.arguments import argument_values
from services.trainer.recipes.fields import need
from services.trainer.recipes.language_model import build_language_model
from services.trainer.recipes.precision import choose_precision
from services.trainer.recipes.recipe import Hardware, TensorShape, Weights
from services.trainer.recipes.text import (
    finish,
    max_length,
    refuse_what_is_missing,
    stand_in_tokenizer,
    targets_in_words,
)
from services.trainer.recipes.trainer import RecipeTrainer


class Seq2SeqTrainer(RecipeTrainer):
    """transformers' Trainer on rows of `input_ids`, `attention_mask` and `labels`."""

    routed: bool = False
    """Whether the model is a mixture of experts, whose routers have a loss of their own."""

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss; a mixture's with those of its routers.

        The configuration's own switch changes nothing here: only the argument of the call does.
        """
        if self.routed:
            inputs = {**inputs, "output_router_logits": True}
        return super().compute_loss(model, inputs, *args, **kwargs)


def build(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None = None,
    *,
    hardware: Hardware,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RecipeTrainer:
    """Return the Trainer of a resolved spec, without data; see `sft.build`."""
    refuse_what_is_missing(spec, hardware)
    _refuse_what_needs_a_decoder_alone(spec)
    precision = choose_precision(spec.precision or Precision.AUTO, hardware)
    seed = need(spec.seed, "seed")
    tokenizer = tokenizer or stand_in_tokenizer()
    if getattr(config, "decoder_start_token_id", None) is None:
        # As in T5, and in all that came after it.
        config.decoder_start_token_id = tokenizer.pad_token_id
    set_seed(seed)
    built = build_language_model(spec, config, weights, precision, hardware)
    text = spec.text or TextOptions()
    routed = "output_router_logits" in signature(type(built.model).forward).parameters
    if routed and text.router_aux_loss_coef is not None:
        built.model.config.router_aux_loss_coef = text.router_aux_loss_coef
    notices = (*built.notices, *targets_in_words(spec, built.model), "trained as encoder and decoder")
    set_seed(seed)
    model = add_adapter(built.model, spec.lora)
    trainer = Seq2SeqTrainer(
        model=model,
        args=TrainingArguments(
            **argument_values(spec, precision, hardware),
            neftune_noise_alpha=text.neftune_noise_alpha,
        ),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=built.model),
    )
    trainer.average_micro_batches()
    trainer.routed = routed
    return finish(trainer, precision, *notices)


def worst_batch(spec: TrainingSpec, config: PreTrainedConfig) -> Mapping[str, TensorShape]:
    """Return the shapes of the largest batch: prompts and completions of the full length."""
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    shape = TensorShape((batch, max_length(spec)), "int64")
    # The decoder's inputs, which the collator makes of the labels.
    return dict.fromkeys(("input_ids", "attention_mask", "labels", "decoder_input_ids"), shape)


def _refuse_what_needs_a_decoder_alone(spec: TrainingSpec) -> None:
    text, placement = spec.text or TextOptions(), spec.placement or PlacementOptions()
    why = "this model has an encoder: leave it out"
    if text.packing:
        raise InvalidSpec("text.packing", True, why)
    if text.assistant_only_loss:
        raise InvalidSpec("text.assistant_only_loss", True, why)
    if placement.expert_offload:
        raise InvalidSpec("placement.expert_offload", True, why)
    if placement.activation_offload:
        raise InvalidSpec("placement.activation_offload", True, why)
