"""A low-rank adapter on a model without memory: whether it finds its modules, and how large it is."""

from collections.abc import Iterable

import peft
from torch import nn
from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions
from services.hardware.estimate.architecture import CONFIG_ERRORS
from services.hardware.estimate.nearest import did_you_mean
from services.trainer.recipes.adapter import lora_config
from services.trainer.recipes.model import head_names

_ALL_LINEAR = "all-linear"


def attach(model: PreTrainedModel, lora: LoraOptions) -> nn.Module:
    """Return the model with the adapter; its trainable parameters require gradients, the others do not.

    Raises:
        InvalidSpec: the model has no such modules, or peft has no adapter for them.
    """
    # peft names what is missing among everything else that it tried; people need the nearest name.
    _refuse_missing(model, lora)
    try:
        adapted = peft.get_peft_model(model, lora_config(model, lora))
    except CONFIG_ERRORS as error:
        detail = " ".join(str(error).split())[:300]
        raise InvalidSpec("lora.target_modules", ", ".join(lora.target_modules), detail) from None
    assert isinstance(adapted, nn.Module)
    return adapted


def _refuse_missing(model: PreTrainedModel, lora: LoraOptions) -> None:
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters()]
    _refuse("lora.target_modules", lora.target_modules, modules, _adaptable(model))
    _refuse("lora.modules_to_save", lora.modules_to_save, modules, head_names(model))
    _refuse("lora.target_parameters", lora.target_parameters, parameters, _last(parameters))


def _refuse(field: str, wanted: Iterable[str], paths: list[str], known: Iterable[str]) -> None:
    for name in wanted:
        if name != _ALL_LINEAR and not any(path == name or path.endswith(f".{name}") for path in paths):
            choices = sorted(set(known))
            meant = did_you_mean(name, choices) or f"; it has {', '.join(choices[:8])}"
            raise InvalidSpec(field, name, f"the model has no such part{meant}")


def _adaptable(model: nn.Module) -> set[str]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding)
    return _last(name for name, module in model.named_modules() if isinstance(module, kinds))


def _last(paths: Iterable[str]) -> set[str]:
    return {path.rpartition(".")[2] for path in paths}
