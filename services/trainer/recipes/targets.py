"""What an adapter is put on, where a spec does not say it or says what would go wrong in silence."""

import sys
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import _MODEL_TO_CONVERSION_PATTERN
from transformers.pytorch_utils import Conv1D

from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions

ALL_LINEAR = "all-linear"

_ROUTERS = ("router", "gate", "shared_expert_gate")
# peft reads these names, in lists too, as the stacked experts of the models that it knows.
_EXPERT_NAMES = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
_MIXER_REFUSALS = {
    "out_proj": "its kernels read the weight directly, so an adapter there would never be used",
    "conv1d": "it is a convolution that its kernels read directly",
    "dt_proj": "the model reads its weight directly, so an adapter there would get no gradient",
}


@dataclass(frozen=True)
class Targets:
    """What peft is told to adapt, by the names of its LoraConfig."""

    target_modules: list[str] | str | None
    target_parameters: list[str] | None
    notices: tuple[str, ...] = ()
    """What is worth knowing about the choice, as sentences."""


def adapter_targets(model: PreTrainedModel, lora: LoraOptions) -> Targets:
    """Return what an adapter is put on. Works on a model without memory too.

    `all-linear`, or nothing, means every linear layer that can be adapted without harm: in a mixture of
    experts attention and what all tokens share, never the router, and the experts only where
    `target_parameters` names them.

    Raises:
        InvalidSpec: what was named would not train, or not what is meant.
    """
    parameters = list(lora.target_parameters) or None
    _refuse(model, lora)
    if lora.target_modules not in ((), (ALL_LINEAR,)):
        return Targets(list(lora.target_modules), parameters, _left_out(model, lora))
    if model.get_output_embeddings() is None:
        return Targets(ALL_LINEAR, parameters)
    if not lora.target_modules and parameters:
        # Only the parameters were asked for.
        return Targets(None, parameters)
    return _every_linear(model, parameters)


def state_space_mixers(model: nn.Module) -> list[nn.Module]:
    """Return the modules that mix tokens by a state space: Mamba's and their relatives'."""
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "conv1d", None), nn.Conv1d) and hasattr(module, "A_log")
    ]


def keep_adapters_in_use(model: nn.Module, targets: Targets) -> None:
    """Let Mamba's mixers call the modules that have adapters, where their kernel would read bare weights.

    The fused kernel takes the weight of `x_proj` as a tensor: an adapter there would get no gradient, without
    an error. Without it the other kernels are used, which call the module.
    """
    named = targets.target_modules or ()
    if isinstance(named, str) or not any(name.rpartition(".")[2] == "x_proj" for name in named):
        return
    for mixer in state_space_mixers(model):
        module = sys.modules[type(mixer).__module__]
        if hasattr(module, "mamba_inner_fn"):
            # transformers takes None for "there is no such kernel".
            module.mamba_inner_fn = lambda *args, **kwargs: None  # type: ignore[attr-defined]


def is_router(name: str) -> bool:
    """Whether the module of this path decides which experts a token goes to, or how much they count."""
    parts = name.split(".")
    return parts[-1] in _ROUTERS or "router" in parts


def has_experts(model: nn.Module) -> bool:
    """Whether a model is a mixture of experts."""
    return any(_in_experts(name) for name, _ in model.named_modules())


def _every_linear(model: PreTrainedModel, parameters: list[str] | None) -> Targets:
    mixers = state_space_mixers(model)
    if not mixers and not has_experts(model):
        return Targets(ALL_LINEAR, parameters)
    head = model.get_output_embeddings()
    untouchable = {
        id(child) for mixer in mixers for name, child in mixer.named_children() if name in _refused_in(mixer)
    }
    paths = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and id(module) not in untouchable
    }
    wanted = {path for path in paths if not _in_experts(path) and not is_router(path)}
    if model.config.model_type in _MODEL_TO_CONVERSION_PATTERN or model.config.model_type == "mixtral":
        wanted = {path for path in wanted if path.rpartition(".")[2] not in _EXPERT_NAMES}
    names = _shortest_names(wanted, paths - wanted)
    notices = [f"all-linear: the adapter is on {', '.join(names)}"]
    if has_experts(model) and not parameters:
        notices.append("the experts get no adapter: name them in lora.target_parameters if they should")
    return Targets(names, parameters, tuple(notices))


def _shortest_names(wanted: set[str], others: set[str]) -> list[str]:
    """Return as few and as short endings of paths as tell the wanted from the others."""
    names = set()
    for path in wanted:
        parts = path.split(".")
        endings = (".".join(parts[-length:]) for length in range(1, len(parts) + 1))
        names.add(next(name for name in endings if not any(_ends(other, name) for other in others)))
    return sorted(names)


def _ends(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _refuse(model: PreTrainedModel, lora: LoraOptions) -> None:
    last = {name: name.rpartition(".")[2] for name in lora.target_modules}
    if "lm_head" in last.values():
        limit = "the head is fused with the loss and gets no adapter: name it in lora.modules_to_save"
        raise InvalidSpec("lora.target_modules", "lm_head", limit)
    mixers = state_space_mixers(model)
    for name, leaf in last.items():
        if mixers and leaf in _refused_in(mixers[0]):
            usual = "in_proj and x_proj" if hasattr(mixers[0], "x_proj") else "in_proj"
            why = f"in {model.config.model_type} {_MIXER_REFUSALS[leaf]}: use {usual}"
            raise InvalidSpec("lora.target_modules", name, why)
    if lora.use_dora and lora.target_parameters:
        limit = "DoRA does not reach target_parameters: use plain LoRA, or name modules only"
        raise InvalidSpec("lora.use_dora", True, limit)
    if lora.lora_dropout and lora.target_parameters:
        limit = "there is no dropout on target_parameters: set it to 0"
        raise InvalidSpec("lora.lora_dropout", lora.lora_dropout, limit)
    if lora.use_dora and getattr(model, "is_loaded_in_8bit", False):
        limit = "DoRA fails on int8 weights at its second step: use nf4, or plain LoRA"
        raise InvalidSpec("lora.use_dora", True, limit)


def _refused_in(mixer: nn.Module) -> tuple[str, ...]:
    return tuple(name for name in _MIXER_REFUSALS if hasattr(mixer, name))


def _left_out(model: PreTrainedModel, lora: LoraOptions) -> tuple[str, ...]:
    """Tell of experts that names which sound like theirs do not reach."""
    named = {name.rpartition(".")[2] for name in lora.target_modules}
    if not has_experts(model) or lora.target_parameters or not named & set(_EXPERT_NAMES):
        return ()
    return ("lora.target_modules reach no stacked experts: name those in lora.target_parameters",)


def _in_experts(path: str) -> bool:
    return "experts" in path.split(".")
