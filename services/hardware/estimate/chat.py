"""What talking to a job's artifact takes: its weights as they are stored, and room for the conversation.

Nothing is trained, so most of it is known: the files' sizes are the weights', and keys and values of the
context follow from the configuration. What the prompt's one pass through a layer takes is a formula.
"""

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from services.common.errors import InvalidModel, InvalidRequest
from services.common.specs import (
    DeviceKind,
    FileTree,
    ModelSource,
    PlacementOptions,
    ResolvedModel,
    ResolvedSpec,
    TextOptions,
    TrainingSpec,
    WeightFile,
)
from services.hardware.estimate.architecture import find_architecture, read_config
from services.hardware.units import GIB, MIB
from services.hardware.weighing import (
    Estimate,
    EstimateMethod,
    MemoryEstimate,
    MemoryPart,
    MemoryPartKind,
    PlacementEstimate,
)

DEFAULT_CONTEXT = 4096
_REMEDY = "begin the chat with a shorter context, or use a larger node"

# Measured: 842 MiB are resident once interpreter, torch, transformers and a tokenizer are there.
_CPU_CONTEXT_BYTES = 960 * MIB
_CUDA_HOST_CONTEXT_BYTES = 4 * GIB
_CUDA_CONTEXT_BYTES = 768 * MIB
_MARGIN_BYTES = 192 * MIB
# Caches grow by being copied, and what is freed in pieces is not given back at once.
_GUESSED_MARGIN = 0.5
_EXACT_MARGIN = 0.05

_FP32 = 4
# Of a layer's input and of its inner width, while a prompt passes through it. Measured with 135 M parameters
# in 32 bits and a prompt of 3,918 tokens: 442 MiB beside the weights, where this and the cache say 524.
_PER_HIDDEN = 10
_PER_INNER = 4
# Logits, a sorted copy, its order and its sums, when a token is drawn.
_PER_LOGIT = 6
# Names under which configurations say how long a text may be.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")


@dataclass(frozen=True, kw_only=True)
class ChatQuestion:
    """What is to be talked to, and how long at most: parts of EstimateChatRequest."""

    artifact: FileTree
    context_tokens: int = 0
    device: DeviceKind | None = None


def weigh_chat(job: ResolvedSpec, asked: ChatQuestion) -> tuple[ResolvedSpec, Estimate]:
    """Return a spec whose bytes say what is to be loaded, and what that needs.

    The spec's model is the artifact, and its `text.max_length` the context in tokens.

    Raises:
        InvalidModel: the artifact holds no whole language model.
        InvalidRequest: the context is longer than the model can hold.
    """
    begin_s = time.monotonic()
    weights = _weights(asked.artifact)
    config = read_config(job.model.model_type, json.loads(job.model.config_json), by_hand=False)
    context = _context(config, asked.context_tokens)
    parts = _parts(job, config, context, sum(file.size_bytes for file in weights))
    chat = _chat_spec(job, asked, context, weights)
    estimate = Estimate(
        method=EstimateMethod.ANALYTIC,
        placements=tuple(_placement(kind, parts) for kind in _kinds(chat.spec)),
        # Fetched into the node's cache, where it may be already.
        disk_bytes=asked.artifact.size_bytes,
        parameter_count=job.model.parameter_count,
        assumptions=(f"a conversation of {context} tokens, read in one pass",),
        compute_time_s=time.monotonic() - begin_s,
        remedy=_REMEDY,
    )
    return chat, estimate


def _weights(artifact: FileTree) -> tuple[WeightFile, ...]:
    # Deeper down lies the adapter, which was merged into these.
    found = tuple(
        WeightFile(path=file.path, size_bytes=file.size_bytes, sha256=file.digest.removeprefix("sha256:"))
        for file in artifact.files
        if "/" not in file.path and file.path.endswith(".safetensors")
    )
    if not found or not any(file.path == "config.json" for file in artifact.files):
        raise InvalidModel("the artifact", "it holds no whole model: talk to a job that made one")
    return found


def _context(config: PretrainedConfig, asked: int) -> int:
    text: Any = config.get_text_config()
    longest = next((int(length) for name in _LENGTHS if (length := getattr(text, name, None))), None)
    if longest is not None and asked > longest:
        fault = f"{asked} tokens are more than the {longest} that the model can hold"
        raise InvalidRequest({"opening.context_tokens": fault})
    return asked or min(DEFAULT_CONTEXT, longest or DEFAULT_CONTEXT)


def _chat_spec(
    job: ResolvedSpec, asked: ChatQuestion, context: int, weights: tuple[WeightFile, ...]
) -> ResolvedSpec:
    trained = job.spec.placement or PlacementOptions()
    device = asked.device or trained.device
    spec = TrainingSpec(
        task=job.spec.task,
        model=ModelSource(),
        dataset=job.spec.dataset,
        text=TextOptions(max_length=context),
        # Not the node: whichever has room can load an artifact.
        placement=PlacementOptions(device=device, shared=trained.shared),
    )
    model = ResolvedModel(
        config_json=job.model.config_json,
        model_type=job.model.model_type,
        weight_files=weights,
        parameter_count=job.model.parameter_count,
        artifact_digest=asked.artifact.digest,
    )
    return replace(job, spec=spec, model=model)


def _kinds(spec: TrainingSpec) -> tuple[DeviceKind, ...]:
    asked = None if spec.placement is None else spec.placement.device
    return (asked,) if asked in (DeviceKind.CPU, DeviceKind.CUDA) else (DeviceKind.CPU, DeviceKind.CUDA)


def _parts(
    job: ResolvedSpec, config: PretrainedConfig, context: int, weight_bytes: int
) -> dict[MemoryPartKind, int]:
    """Return what stands where the model computes."""
    text: Any = config.get_text_config()
    # Stored in 32 bits or in 16: keys and values are what the weights are.
    width = _FP32 if weight_bytes >= 3 * (job.model.parameter_count or weight_bytes) else 2
    model_class = find_architecture(job.model.model_type, config, job.spec.task).model_class
    hidden = _size(text, "hidden_size", "d_model", default=4096)
    inner = _size(text, "intermediate_size", "d_ff", "ffn_dim", "n_inner", default=4 * hidden)
    heads = _size(text, "num_attention_heads", "num_heads", "n_head", default=1)
    experts = _size(text, "num_experts_per_tok", default=1)
    layer = context * (_PER_HIDDEN * hidden + _PER_INNER * inner * experts)
    # A mask of every token against every other; without a kernel for it, all heads' scores too.
    scores = context**2 * (2 if model_class._supports_sdpa else 2 * heads)
    last_only = "logits_to_keep" in inspect.signature(model_class.forward).parameters
    vocabulary = _size(text, "vocab_size", default=32_000)
    return {
        MemoryPartKind.WEIGHTS: weight_bytes,
        MemoryPartKind.CACHE: width * context * _cached_elements(text, hidden, heads),
        MemoryPartKind.ACTIVATIONS: _FP32 * (layer + scores),
        MemoryPartKind.LOGITS: _FP32 * vocabulary * (_PER_LOGIT + (0 if last_only else context)),
    }


def _cached_elements(text: Any, hidden: int, heads: int) -> int:
    """Return how many keys and values every layer keeps of one token."""
    layers = _size(text, "num_hidden_layers", "num_layers", "n_layer", default=32)
    head_size = _size(text, "head_dim", default=max(1, hidden // heads))
    kept_heads = _size(text, "num_key_value_heads", default=heads)
    # One layer more: a cache grows by copying a layer's keys and values.
    return 2 * (layers + 1) * kept_heads * head_size


def _size(text: Any, *names: str, default: int) -> int:
    return next((int(size) for name in names if (size := getattr(text, name, None))), default)


def _placement(kind: DeviceKind, parts: Mapping[MemoryPartKind, int]) -> PlacementEstimate:
    if kind is DeviceKind.CPU:
        host = _memory(parts, _CPU_CONTEXT_BYTES)
        return PlacementEstimate(device=kind, device_count=1, gpu=None, host=host)
    # Weights pass through host memory on their way to the GPU.
    loading = {MemoryPartKind.WEIGHTS: parts[MemoryPartKind.WEIGHTS]}
    return PlacementEstimate(
        device=kind,
        device_count=1,
        gpu=_memory(parts, _CUDA_CONTEXT_BYTES),
        host=_memory(loading, _CUDA_HOST_CONTEXT_BYTES),
    )


def _memory(parts: Mapping[MemoryPartKind, int], context_bytes: int) -> MemoryEstimate:
    allocated_bytes = sum(parts.values())
    exact_bytes = parts[MemoryPartKind.WEIGHTS]
    guessed_bytes = allocated_bytes - exact_bytes
    margin_bytes = int(_EXACT_MARGIN * exact_bytes + _GUESSED_MARGIN * guessed_bytes) + _MARGIN_BYTES
    sizes = sorted(((size, kind) for kind, size in parts.items() if size), reverse=True)
    return MemoryEstimate(
        peak_allocated_bytes=allocated_bytes,
        peak_reserved_bytes=allocated_bytes,
        context_bytes=context_bytes,
        margin_bytes=margin_bytes,
        low_bytes=exact_bytes + context_bytes // 2,
        high_bytes=allocated_bytes + context_bytes + margin_bytes,
        parts=tuple(MemoryPart(kind=kind, size_bytes=size) for size, kind in sizes),
    )
