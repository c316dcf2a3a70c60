"""What a spec of a text task asks of its model that the model cannot do."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from services.common.errors import InvalidSpec
from services.common.specs import (
    PlacementOptions,
    Task,
    TextOptions,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.architecture import Architecture

# Where sequences of one row have been shown to stay apart by their positions alone; a test shows it again.
# In others (Mamba, Jamba, Bloom, OPT, Falcon, …) they see each other, without an error.
KEEPS_PACKED_APART = frozenset(
    {
        *("apertus", "arcee", "codegen", "cohere", "cohere2", "ernie4_5", "exaone4", "gemma", "gemma2"),
        *("gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "gptj", "granite", "granitemoe"),
        *("helium", "hunyuan_v1_dense", "llama", "ministral", "mistral", "mixtral", "nemotron", "olmo"),
        *("olmo2", "olmo3", "olmoe", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3"),
        *("qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2"),
    }
)
# Of liger-kernel 0.6.
_LIGER = frozenset(
    {
        *("gemma", "gemma2", "gemma3_text", "glm4", "granite", "llama", "mistral", "mixtral", "olmo2"),
        *("phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3"),
    }
)
_MAMBA = frozenset({"mamba", "mamba2", "falcon_mamba"})


def positions(config: Any) -> int | None:
    """Return how many tokens a model has positions for. None: as many as there are."""
    # Learned positions have no more rows than this; rotary ones were never trained beyond.
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def has_experts(config: Any) -> bool:
    """Whether a model is a mixture of experts."""
    text = config.get_text_config()
    return any(getattr(text, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))


def length(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """A sequence has to have its positions."""
    most, asked = positions(architecture.config), 0 if spec.text is None else spec.text.max_length or 0
    if most and asked > most:
        yield InvalidSpec("text.max_length", asked, f"the model has {most} positions: use at most that")


def packing(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """Packed sequences must not see each other."""
    name = architecture.config.model_type
    if spec.text is None or not spec.text.packing or architecture.has_encoder:
        return
    if name not in KEEPS_PACKED_APART:
        limit = f"packed sequences may see each other in {name}, without an error: leave it out"
        yield InvalidSpec("text.packing", True, limit)


def head(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """The fused loss multiplies the backbone's output with one matrix, and knows of nothing in between."""
    if spec.task is Task.IMAGE_CLASSIFICATION or architecture.has_encoder:
        return
    output = model.get_output_embeddings()
    backbone = model.base_model
    inner = {id(module) for module in backbone.modules()}
    between = [
        name
        for name, module in model.named_modules()
        if id(module) not in inner and module is not output and any(True for _ in module.parameters(False))
    ]
    name = architecture.config.model_type
    if backbone is model or not isinstance(output, nn.Linear):
        limit = "the loss needs a backbone and one linear head on it: choose llama, qwen2, gpt2 or the like"
        yield InvalidSpec("model", name, limit)
    elif between:
        limit = f"the loss would pass over a part of its head ({', '.join(between[:3])})"
        yield InvalidSpec("model", name, f"{limit}: choose llama, qwen2, gpt2 or the like")


def experts(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """What is about experts needs some."""
    name, config = architecture.config.model_type, architecture.config
    placement, text = spec.placement or PlacementOptions(), spec.text or TextOptions()
    if not has_experts(config):
        limit = f"{name} is no mixture of experts: leave it out"
        if placement.expert_offload:
            yield InvalidSpec("placement.expert_offload", True, limit)
        if text.router_aux_loss_coef is not None:
            yield InvalidSpec("text.router_aux_loss_coef", text.router_aux_loss_coef, limit)
    if spec.quantization is not None:
        # Imported by those who quantise: bitsandbytes takes seconds.
        from services.trainer.recipes.experts import unknown_experts

        strange = unknown_experts(model)
        if strange:
            limit = f"{name} stacks its experts in a way that cannot be packed ({strange[0]}): leave it out"
            yield InvalidSpec("quantization.method", spec.quantization.method, limit)


def state_space(
    spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel
) -> Iterator[InvalidSpec]:
    """Mamba without its kernels is a loop over tokens."""
    compiled = spec.training is not None and spec.training.torch_compile
    if compiled and architecture.config.model_type in _MAMBA:
        limit = "a loop over tokens, as it is without its kernels, takes for ever to compile: leave it out"
        yield InvalidSpec("training.torch_compile", True, limit)


def encoder(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """A model with an encoder is trained on an answer to a prompt, by transformers' own trainer."""
    if not architecture.has_encoder:
        return
    text, placement = spec.text or TextOptions(), spec.placement or PlacementOptions()
    name = architecture.config.model_type
    asked = {
        "text.packing": text.packing,
        "text.assistant_only_loss": text.assistant_only_loss,
        "placement.expert_offload": placement.expert_offload,
        "placement.activation_offload": placement.activation_offload,
    }
    for field, value in asked.items():
        if value:
            yield InvalidSpec(field, True, f"{name} has an encoder, and takes none: leave it out")
    if spec.evaluation is not None and spec.evaluation.metric_for_best_model == "token_accuracy":
        limit = f"{name} has an encoder, and its trainer counts no tokens: use loss"
        yield InvalidSpec("evaluation.metric_for_best_model", "token_accuracy", limit)
    if text.completion_only_loss is False:
        limit = f"{name} has an encoder, and writes completions only: leave it out"
        yield InvalidSpec("text.completion_only_loss", False, limit)


def liger(spec: TrainingSpec, architecture: Architecture, model: PreTrainedModel) -> Iterator[InvalidSpec]:
    """Fused kernels exist for some architectures, and others would be passed over."""
    name = architecture.config.model_type
    if (spec.training or TrainingOptions()).use_liger_kernel and name not in _LIGER:
        limit = f"liger has no kernels for {name}: leave it out"
        yield InvalidSpec("training.use_liger_kernel", True, limit)
