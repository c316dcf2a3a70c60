"""Merging a trained adapter into its base, in the format in which the base is stored.

What was trained on a quantised base is merged into the base as it was before: merged into 4-bit weights, the
sum would be rounded to 4 bits again, which costs a third of what the adapter had learned.
"""

import gc
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from services.common.specs import PlacementOptions, Precision
from services.trainer.recipes import Hardware, Recipe
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.checkpoints import read_weights_into
from services.trainer.work.data import RunData
from services.trainer.work.inputs import RunInputs
from services.trainer.work.weights import read_weights


def merged(
    recipe: Recipe,
    trainer: RecipeTrainer,
    inputs: RunInputs,
    config: PreTrainedConfig,
    data: RunData,
    adapter: Path,
) -> PreTrainedModel:
    """Return the base with the trained adapter, which `adapter` holds too; the trainer's is used up."""
    network = trainer.network
    if inputs.resolved.spec.quantization is not None:
        network = _on_whole_weights(recipe, trainer, inputs, config, data, adapter)
    return cast(PreTrainedModel, cast(PeftModel, network).merge_and_unload())


def _on_whole_weights(
    recipe: Recipe,
    trainer: RecipeTrainer,
    inputs: RunInputs,
    config: PreTrainedConfig,
    data: RunData,
    adapter: Path,
) -> PeftModel:
    half, step = trainer.args.bf16 or trainer.args.fp16, trainer.state.global_step
    _let_go(trainer)
    # The recipe itself, on the CPU and without quantisation: the same base, also where the seed drew it.
    spec = replace(
        inputs.resolved.spec,
        quantization=None,
        attn_implementation=None,
        precision=Precision.BF16 if half else Precision.FP32,
        placement=PlacementOptions(),
    )
    weights = read_weights(inputs, config)
    whole = recipe.build(spec, config, weights, hardware=Hardware(), tokenizer=data.tokenizer)
    read_weights_into(whole.network, adapter, step)
    return cast(PeftModel, whole.network)


def _let_go(trainer: RecipeTrainer) -> None:
    """Give the quantised model's memory back before the whole one takes its own."""
    for name in ("model", "model_wrapped", "optimizer", "lr_scheduler"):
        setattr(trainer, name, None)
    trainer.callback_handler.model = trainer.callback_handler.optimizer = None
    trainer.accelerator.free_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
