"""Resolved specs and tiny configurations of language models, one of each family."""

from dataclasses import replace
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from services.common.specs import (
    CheckpointOptions,
    EvaluationOptions,
    IntervalStrategy,
    LoraOptions,
    ModelSource,
    PreferenceOptions,
    Task,
    TextOptions,
    TrainingSpec,
)
from tests.trainer.specs import TRAINING

_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
}
TINY: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "vocab_size": 300},
    "mamba2": {
        "hidden_size": 32,
        "state_size": 8,
        "num_heads": 4,
        "head_dim": 16,
        "n_groups": 1,
        "num_hidden_layers": 2,
        "chunk_size": 16,
        "vocab_size": 300,
    },
    "mixtral": {**_DECODER, "num_local_experts": 4},
    "qwen2_moe": {
        **_DECODER,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "olmoe": {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2},
    "switch_transformers": {
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 2,
        "num_experts": 4,
        "vocab_size": 300,
    },
}
"""What differs from transformers' defaults, by architecture."""

CAUSAL = tuple(name for name in TINY if name != "switch_transformers")

TARGETS = {
    "mamba": ("in_proj", "x_proj"),
    "mamba2": ("in_proj",),
    "switch_transformers": ("q", "v", "wi", "wo"),
}
"""Modules that an adapter is tried on; elsewhere `q_proj` and `v_proj`."""


def tiny_config(name: str, **changes: Any) -> PreTrainedConfig:
    """Return the configuration of a tiny model of an architecture."""
    config: PreTrainedConfig = AutoConfig.for_model(name, **{**TINY[name], **changes})
    return config


def lora_for(name: str, **changes: Any) -> LoraOptions:
    """Return an adapter that an architecture takes."""
    targets = TARGETS.get(name, ("q_proj", "v_proj"))
    return replace(LoraOptions(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=targets), **changes)


def text_spec(task: Task, **changes: Any) -> TrainingSpec:
    """Return a resolved spec of a text task."""
    preference = PreferenceOptions(beta=0.1, loss_type=("sigmoid",), label_smoothing=0.0)
    spec = TrainingSpec(
        task=task,
        model=ModelSource(config={}),
        dataset="projects/default/datasets/words",
        text=TextOptions(max_length=32),
        preference=preference if task is Task.DPO else None,
        training=replace(TRAINING, gradient_checkpointing=True),
        evaluation=EvaluationOptions(validation_split=0.25, eval_strategy=IntervalStrategy.EPOCH),
        checkpointing=CheckpointOptions(save_strategy=IntervalStrategy.STEPS, save_steps=2),
        seed=7,
    )
    return replace(spec, **changes)
