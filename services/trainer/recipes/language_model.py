"""The model of a text recipe: architecture, attention, number format, quantisation, weights."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
)

from services.common.errors import InvalidModel
from services.common.specs import Attention, DeviceKind, Precision, TrainingSpec
from services.trainer.recipes.attention import choose_attention
from services.trainer.recipes.model import Built, some_of, storage_dtype
from services.trainer.recipes.recipe import Hardware, Weights

_MAMBA_KERNELS = ("mamba_ssm", "causal_conv1d")


def build_language_model(
    spec: TrainingSpec,
    config: PreTrainedConfig,
    weights: Weights | None,
    precision: Precision,
    hardware: Hardware,
) -> Built:
    """Return the language model of `config`, with the weights given or those that torch's RNG draws.

    A quantised one is quantised here, on the device that trains it.

    Raises:
        InvalidModel: transformers has no language model of this architecture, or the weights are not its own.
        InvalidSpec: the spec asks for what architecture or hardware lacks.
    """
    model_class = language_model_class(config)
    attention = choose_attention(spec.attn_implementation or Attention.AUTO, model_class, precision, hardware)
    options: dict[str, Any] = {
        "attn_implementation": attention.implementation,
        "dtype": storage_dtype(spec, precision),
    }
    told = [attention.reason, *_slow_path(config)]
    if weights is None:
        model = model_class._from_config(config, **options)
    else:
        model, left_over = _with_weights(model_class, config, weights, options)
        told += left_over
    if spec.quantization is not None:
        # Imported by those who quantise: bitsandbytes takes seconds.
        from services.trainer.recipes.quantization import quantize

        told += quantize(
            model,
            spec.quantization,
            device=torch.device("cuda" if hardware.device is DeviceKind.CUDA else "cpu"),
            compute_dtype=compute_dtype(precision),
            offload_experts=bool(spec.placement and spec.placement.expert_offload),
        )
    return Built(model, tuple(told))


def _slow_path(config: PreTrainedConfig) -> list[str]:
    """Say how much slower a state space model is without its kernels; transformers chooses by itself."""
    if not config.model_type.startswith("mamba") or all(map(find_spec, _MAMBA_KERNELS)):
        return []
    return [
        f"{' and '.join(_MAMBA_KERNELS)} are not installed: {config.model_type} runs on PyTorch alone, "
        "correct and much slower (19 s a step of mamba-370m on an H100, 2 sequences of 512 tokens)"
    ]


def language_model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' language model of an architecture: causal, or with an encoder where it has one.

    Raises:
        InvalidModel: there is none.
    """
    mapping: Any = (
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING if config.is_encoder_decoder else MODEL_FOR_CAUSAL_LM_MAPPING
    )
    try:
        found: Any = mapping[type(config)]
    except KeyError:
        detail = "transformers has no language model of this architecture; `llama` is one that it has"
        raise InvalidModel(model=config.model_type, detail=detail) from None
    model_class: type[PreTrainedModel] = found[0] if isinstance(found, list | tuple) else found
    return model_class


def compute_dtype(precision: Precision) -> torch.dtype:
    """Return the format that matrix products are computed in."""
    return {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}.get(precision, torch.float32)


def _with_weights(
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    weights: Weights,
    options: Mapping[str, Any],
) -> tuple[PreTrainedModel, list[str]]:
    # Without a path it reads nothing, and it knows the names under which older versions wrote their files.
    loaded: Any = model_class.from_pretrained(
        None, config=config, state_dict=dict(weights.tensors), output_loading_info=True, **options
    )
    model, report = loaded
    missing, left_over = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing or (left_over and weights.complete):
        detail = f"these weights are not its own: missing {some_of(missing)}, left over {some_of(left_over)}"
        raise InvalidModel(model=config.model_type, detail=detail)
    return model, [f"the weights hold more than is used: {some_of(left_over)}"] if left_over else []
