"""The adapter of a model: LoRA, DoRA and rank-stabilised LoRA, by peft."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions
from services.trainer.recipes.fields import need
from services.trainer.recipes.model import head_names

ALL_LINEAR = "all-linear"


def add_adapter(model: PreTrainedModel, options: LoraOptions | None) -> PreTrainedModel | PeftModel:
    """Return the model with the adapter asked for; without options, the model itself, all of it trained.

    Raises:
        InvalidSpec: the model has no modules of the names given, or they cannot be adapted.
    """
    if options is None:
        # Whatever froze a base before, all of it is trained now.
        model.requires_grad_(True)
        return model
    targets = list(options.target_modules) or [ALL_LINEAR]
    config = LoraConfig(
        r=need(options.r, "lora.r"),
        lora_alpha=need(options.lora_alpha, "lora.lora_alpha"),  # type: ignore[arg-type]
        lora_dropout=need(options.lora_dropout, "lora.lora_dropout"),
        target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
        target_parameters=list(options.target_parameters) or None,
        # A head that is adapted but not saved would be the random one that the run began with.
        modules_to_save=list(options.modules_to_save) or list(head_names(model)),
        use_dora=bool(options.use_dora),
        use_rslora=bool(options.use_rslora),
    )
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise InvalidSpec("lora.target_modules", ", ".join(targets), f"peft refuses it: {error}") from error
    _check_that_something_trains(adapted)
    return adapted


def _check_that_something_trains(model: torch.nn.Module) -> None:
    # A model without trainable parameters can go through a Trainer without an error and learn nothing.
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InvalidSpec("lora", "an adapter without parameters", "something must be trained")
