"""Models of a few thousand parameters, of every family that is quantised, and a step of training on them."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, set_seed

from services.common.specs import LoraOptions, QuantizationMethod, QuantizationOptions
from services.trainer.recipes.adapter import lora_config
from services.trainer.recipes.language_model import language_model_class
from services.trainer.recipes.quantization import quantize

CPU = torch.device("cpu")
VOCABULARY = 200
LENGTH = 24

NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
NF4_ONCE = QuantizationOptions(method=QuantizationMethod.NF4, bnb_4bit_use_double_quant=False)
INT8 = QuantizationOptions(method=QuantizationMethod.INT8)
LORA = LoraOptions(r=4, lora_alpha=8.0, lora_dropout=0.0, target_modules=("all-linear",))

_DENSE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_NO_DROPOUT = {"eos_token_id": 1, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": _DENSE,
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        **_NO_DROPOUT,
    },
    "mixtral": {**_DENSE, "num_local_experts": 4},
    "qwen2_moe": {**_DENSE, **_EXPERTS, "shared_expert_intermediate_size": 32},
    "qwen3_moe": {**_DENSE, **_EXPERTS, "head_dim": 8},
    "olmoe": {**_DENSE, "num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "mamba2": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "num_heads": 4,
        "head_dim": 16,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "switch_transformers": {
        "vocab_size": VOCABULARY,
        "d_model": 32,
        "d_ff": 64,
        "d_kv": 8,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_heads": 4,
        "num_experts": 4,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
        "router_jitter_noise": 0.0,
    },
}
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


def config_of(family: str, **changes: Any) -> PreTrainedConfig:
    """Return the config of a tiny model."""
    return AutoConfig.for_model(family, **{**FAMILIES[family], **changes})


def model_of(
    family: str,
    quantization: QuantizationOptions | None = None,
    *,
    offload_experts: bool = False,
    dtype: torch.dtype = torch.float32,
    **changes: int,
) -> PreTrainedModel:
    """Return a tiny model, the same at each call but for its quantisation."""
    set_seed(0)
    config = config_of(family, **changes)
    model: PreTrainedModel = language_model_class(config)._from_config(config, dtype=dtype)
    if quantization is not None:
        quantize(model, quantization, device=CPU, compute_dtype=dtype, offload_experts=offload_experts)
    return model


def adapted(model: PreTrainedModel, lora: LoraOptions, *, checkpointing: bool = False) -> PeftModel:
    """Return the model with an adapter that already changes its output, the same one at each call."""
    set_seed(1)
    config = lora_config(model, lora)
    config.init_lora_weights = False
    wrapped = get_peft_model(model, config)
    assert isinstance(wrapped, PeftModel)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return wrapped.train()


def batch() -> dict[str, torch.Tensor]:
    """Return two sequences that repeat themselves."""
    ids = 2 + (3 * torch.arange(2 * LENGTH).view(2, LENGTH)) % 30
    return {"input_ids": ids, "labels": ids}


def gradients(model: PeftModel) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the loss, and its gradient with respect to each trained parameter."""
    model.zero_grad()
    loss = model(**batch()).loss
    loss.backward()
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    return loss.item(), {name: each.grad.clone() for name, each in trained.items() if each.grad is not None}


def evaluate(model: PeftModel) -> float:
    """Return the loss as an evaluation measures it, and go on training."""
    model.eval()
    with torch.no_grad():
        loss = model(**batch()).loss.item()
    model.train()
    return float(loss)


def losses(model: PeftModel, steps: int) -> list[float]:
    """Train, and return the loss of each step."""
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen
