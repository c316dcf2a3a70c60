"""The recipe of supervised fine-tuning: the next token of texts, conversations and completions."""

from collections.abc import Mapping

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from services.common.specs import Precision, TextOptions, TrainingSpec
from services.trainer.recipes import seq2seq
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
from services.trainer.recipes.trainer import RecipeTrainer


class SftTrainer(RecipeTrainer, SFTTrainer):
    """trl's trainer on rows of `input_ids` and `labels`, masked with -100; packed ones also `seq_lengths`."""


def build(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None = None,
    *,
    hardware: Hardware = Hardware(),  # noqa: B008 - frozen
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RecipeTrainer:
    """Return the Trainer of a resolved spec, without data; without weights, from random ones.

    The loss is the mean cross-entropy of the tokens that are not masked, by trl's fused head, which never
    holds all logits; label smoothing does. A mixture of experts adds its router's loss.

    Raises:
        InvalidSpec, NotAvailable: the spec asks for what hardware, model or this version does not have.
        InvalidModel: the architecture is no language model, or the weights are not its own.
    """
    if config.is_encoder_decoder:
        return seq2seq.build(spec, config, weights, hardware=hardware, tokenizer=tokenizer)
    refuse_what_is_missing(spec, hardware)
    precision = choose_precision(spec.precision or Precision.AUTO, hardware)
    set_seed(need(spec.seed, "seed"))
    built = build_language_model(spec, config, weights, precision, hardware)
    notices = (*built.notices, *targets_in_words(spec, built.model))
    text = spec.text or TextOptions()
    arguments = SFTConfig(
        **text_arguments(spec, precision, hardware),
        packing=bool(text.packing),
        eval_packing=False,
        neftune_noise_alpha=text.neftune_noise_alpha,
        # Rows come tokenised and masked.
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    try:
        # It sets the seed again: the adapter is the same whether the base was read or drawn.
        trainer = SftTrainer(
            model=built.model,
            args=arguments,
            train_dataset=no_data(("input_ids", "labels")),
            processing_class=tokenizer or stand_in_tokenizer(),
            peft_config=adapter_of(spec, built.model),
        )
    except ValueError as error:
        raise refused_by_peft(spec, error) from error
    return finish(trainer, precision, *notices)


def worst_batch(spec: TrainingSpec, config: PreTrainedConfig) -> Mapping[str, TensorShape]:
    """Return the shapes of the largest batch, the first one too: every sequence of the full length."""
    if config.is_encoder_decoder:
        return seq2seq.worst_batch(spec, config)
    training = need(spec.training, "training")
    batch = need(training.per_device_train_batch_size, "training.per_device_train_batch_size")
    length = max_length(spec)
    packed = bool(spec.text and spec.text.packing)
    # Packed sequences stand in one row, told apart by their positions; others are told where they are padded.
    shape = (1, batch * length) if packed else (batch, length)
    beside = "position_ids" if packed else "attention_mask"
    return {name: TensorShape(shape, "int64") for name in ("input_ids", "labels", beside)}


RECIPE = Recipe(build=build, worst_batch=worst_batch)
