"""The adapter of a model: LoRA, DoRA and rank-stabilised LoRA, by peft."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions
from services.trainer.recipes.fields import need
from services.trainer.recipes.model import head_names
from services.trainer.recipes.targets import adapter_targets, keep_adapters_in_use


def add_adapter(model: PreTrainedModel, options: LoraOptions | None) -> PreTrainedModel | PeftModel:
    """Return the model with the adapter asked for; without options, the model itself, all of it trained.

    Raises:
        InvalidSpec: the model has no modules of the names given, or they cannot be adapted.
    """
    if options is None:
        # Whatever froze a base before, all of it is trained now.
        model.requires_grad_(True)
        return model
    try:
        adapted = get_peft_model(model, lora_config(model, options))
    except ValueError as error:
        targets = ", ".join(options.target_modules)
        raise InvalidSpec("lora.target_modules", targets, f"peft refuses it: {error}") from error
    check_that_something_trains(adapted)
    return adapted


def lora_config(model: PreTrainedModel, options: LoraOptions) -> LoraConfig:
    """Return peft's description of the adapter that a model gets, with memory for its weights or without.

    Raises:
        InvalidSpec: what was named would not train, or not what is meant.
    """
    targets = adapter_targets(model, options)
    keep_adapters_in_use(model, targets)
    return LoraConfig(
        r=need(options.r, "lora.r"),
        lora_alpha=need(options.lora_alpha, "lora.lora_alpha"),  # type: ignore[arg-type]
        lora_dropout=need(options.lora_dropout, "lora.lora_dropout"),
        target_modules=targets.target_modules,
        target_parameters=targets.target_parameters,
        modules_to_save=list(options.modules_to_save) or _new_heads(model),
        use_dora=bool(options.use_dora),
        use_rslora=bool(options.use_rslora),
    )


def _new_heads(model: PreTrainedModel) -> list[str] | None:
    """Return what is trained whole beside the adapter: a classifier's head, never a language model's."""
    # A head that is adapted but not saved would be the random one that the run began with.
    return list(head_names(model)) if model.get_output_embeddings() is None else None


def check_that_something_trains(model: torch.nn.Module) -> None:
    """Raise InvalidSpec where no parameter would be trained."""
    # A model without trainable parameters can go through a Trainer without an error and learn nothing.
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidSpec("lora", "an adapter without parameters", "something must be trained")
