"""What the text recipes share: arguments by trl's names, the adapter, a tokenizer where none is at hand."""

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from services.common.errors import InvalidSpec
from services.common.specs import DeviceKind, PlacementOptions, Precision, TextOptions, TrainingSpec
from services.trainer.recipes.adapter import check_that_something_trains, lora_config
from services.trainer.recipes.arguments import argument_values
from services.trainer.recipes.fields import need
from services.trainer.recipes.placement import refuse_sharding
from services.trainer.recipes.recipe import Hardware
from services.trainer.recipes.targets import adapter_targets
from services.trainer.recipes.trainer import RecipeTrainer


def text_arguments(spec: TrainingSpec, precision: Precision, hardware: Hardware) -> dict[str, Any]:
    """Return the arguments that trl's configs share, by name.

    Raises:
        InvalidSpec: the hardware has no such kernels.
    """
    placement = spec.placement or PlacementOptions()
    return {
        **argument_values(spec, precision, hardware),
        "max_length": max_length(spec),
        "router_aux_loss_coef": (spec.text or TextOptions()).router_aux_loss_coef,
        "activation_offloading": bool(placement.activation_offload),
        "use_liger_kernel": bool(spec.training and spec.training.use_liger_kernel),
    }


def max_length(spec: TrainingSpec) -> int:
    """Return how many tokens a sequence is cut to."""
    return need(need(spec.text, "text").max_length, "text.max_length")


def adapter_of(spec: TrainingSpec, model: PreTrainedModel) -> LoraConfig | None:
    """Return peft's description of the adapter, which trl attaches. None: the model itself is trained."""
    if spec.lora is not None:
        return lora_config(model, spec.lora)
    # Whatever froze it before, all of it is trained now: trl would train a frozen model without a word.
    model.requires_grad_(True)
    return None


def targets_in_words(spec: TrainingSpec, model: PreTrainedModel) -> tuple[str, ...]:
    """Return what is worth knowing about where the adapter goes. Call it before the adapter is there."""
    return () if spec.lora is None else adapter_targets(model, spec.lora).notices


def finish(trainer: RecipeTrainer, precision: Precision, *notices: str) -> RecipeTrainer:
    """Return a trainer that trl has built, with what is worth knowing about it. Raises InvalidSpec."""
    check_that_something_trains(trainer.network)
    if precision is not Precision.BF16:
        # trl trains adapters of quantised weights in bf16 also where nothing else computes in it.
        for parameter in trainer.network.parameters():
            if parameter.requires_grad and parameter.dtype is torch.bfloat16:
                parameter.data = parameter.data.float()
    trainer.notices = (*notices, f"precision: {precision.value}")
    return trainer


def refused_by_peft(spec: TrainingSpec, error: ValueError) -> InvalidSpec:
    """Return the error about an adapter that peft or trl does not take."""
    targets = () if spec.lora is None else (*spec.lora.target_modules, *spec.lora.target_parameters)
    return InvalidSpec("lora.target_modules", ", ".join(targets), f"peft refuses it: {error}")


def refuse_what_is_missing(spec: TrainingSpec, hardware: Hardware) -> None:
    """Refuse what the libraries would pass over, or do in their own way, without a word.

    Raises:
        InvalidSpec, NotAvailable: with what works instead.
    """
    placement = spec.placement or PlacementOptions()
    refuse_sharding(placement)
    if placement.activation_offload and hardware.device is not DeviceKind.CUDA:
        raise InvalidSpec("placement.activation_offload", True, "activations are on the host already")
    if placement.expert_offload and spec.quantization is None:
        limit = "experts are streamed in 4 bit: set quantization.method to nf4"
        raise InvalidSpec("placement.expert_offload", True, limit)


def no_data(columns: tuple[str, ...]) -> Dataset:
    """Return a data set of one row of two tokens: trl takes none without rows, and it is replaced at once."""
    return Dataset.from_dict({column: [[0, 0]] for column in columns})


def stand_in_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer that knows padding and the end, for shapes only."""
    tokenizer = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1}, unk_token="</s>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")
