"""The first estimate: formulas over a model's shapes, with a wide margin above them.

It is meant to be an upper bound, so that what it admits does not die. It says little about how much less
would do: the interval that goes with it is wide.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from services.common.specs import (
    DeviceKind,
    Optimizer,
    Precision,
    QuantizationMethod,
    ResolvedSpec,
    Task,
    TrainingSpec,
)
from services.hardware.estimate.activations import Activations, batch_size, image_size, of_images, of_text
from services.hardware.estimate.adapters import attach
from services.hardware.estimate.architecture import build_empty, find_architecture, read_config
from services.hardware.units import GIB, MIB
from services.hardware.weighing import (
    Estimate,
    EstimateMethod,
    MemoryEstimate,
    MemoryPart,
    MemoryPartKind,
    PlacementEstimate,
)

# Measured: interpreter, torch, transformers' Trainer, torchvision and peft share 0.75 GiB after their
# imports; the first steps, plots and metrics add to it.
_CPU_CONTEXT_BYTES = 1152 * MIB
# The CUDA libraries and their pinned buffers stand in host memory too.
_CUDA_HOST_CONTEXT_BYTES = 4 * GIB
_CUDA_CONTEXT_BYTES = 768 * MIB
_COMPILER_BYTES = 2 * GIB
_LOADER_BYTES = 400 * MIB

# Weights, gradients and the optimiser's state are counted exactly; activations, transients and data are not.
_EXACT_MARGIN = 0.05
_GUESSED_MARGIN = 0.5
_MARGIN_BYTES = 256 * MIB
_EXACT = frozenset(
    {
        MemoryPartKind.WEIGHTS,
        MemoryPartKind.ADAPTERS,
        MemoryPartKind.GRADIENTS,
        MemoryPartKind.OPTIMIZER,
        MemoryPartKind.REFERENCE,
    }
)
# What the formulas have been seen to exceed a run by, at most.
_LOW_SHARE = 0.4

_FP32 = 4
# Bytes of optimiser state for each trained parameter, transient copies included.
_STATE_BYTES = {
    Optimizer.ADAMW_TORCH_FUSED: 8,
    Optimizer.ADAMW_TORCH: 12,
    Optimizer.ADAMW_8BIT: 2.5,
    Optimizer.PAGED_ADAMW_8BIT: 2.5,
    Optimizer.ADAFACTOR: 5,
    Optimizer.SGD: 0,
}
_QUANTIZED_BYTES = {QuantizationMethod.INT8: 1.1, QuantizationMethod.NF4: 0.6}


@dataclass(frozen=True)
class Shapes:
    """Numbers of elements that the formulas start from."""

    parameters: int
    """The model's own."""
    adapters: int
    """Added by an adapter."""
    trained: int
    quantized: int
    """Parameters that a quantised job stores in few bits."""
    activations: Activations


def estimate(resolved: ResolvedSpec) -> Estimate:
    """Return what a resolved spec needs on each kind of device that it allows.

    Raises:
        InvalidModel, InvalidSpec: the bytes were not made by `resolve`.
    """
    begin_s = time.monotonic()
    shapes = measure(resolved)
    kinds = _kinds(resolved.spec)
    return Estimate(
        method=EstimateMethod.ANALYTIC,
        placements=tuple(_placement(kind, shapes, resolved) for kind in kinds),
        disk_bytes=_disk_bytes(shapes, resolved),
        parameter_count=shapes.parameters + shapes.adapters,
        trainable_parameter_count=shapes.trained,
        assumptions=_assumptions(resolved),
        compute_time_s=time.monotonic() - begin_s,
    )


def measure(resolved: ResolvedSpec) -> Shapes:
    """Return the shapes of a resolved spec's model, read off the model without memory."""
    spec, name = resolved.spec, resolved.model.model_type
    config = read_config(name, json.loads(resolved.model.config_json), by_hand=False)
    architecture = find_architecture(name, config, spec.task)
    model = build_empty(architecture)
    images = spec.task is Task.IMAGE_CLASSIFICATION
    activations = of_images(architecture, spec) if images else of_text(config, spec)
    # Counted before the adapter, whose small matrices stay as they are.
    quantized = 0 if spec.quantization is None else _linear_parameters(model)
    parameters = model.num_parameters()
    if spec.lora is None:
        return Shapes(parameters, 0, parameters, quantized, activations)
    adapted = attach(model, spec.lora)
    every = sum(parameter.numel() for parameter in adapted.parameters())
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    return Shapes(parameters, every - parameters, trained, quantized, activations)


def _kinds(spec: TrainingSpec) -> tuple[DeviceKind, ...]:
    asked = DeviceKind.AUTO if spec.placement is None else spec.placement.device or DeviceKind.AUTO
    return (DeviceKind.CPU, DeviceKind.CUDA) if asked is DeviceKind.AUTO else (asked,)


def _placement(kind: DeviceKind, shapes: Shapes, resolved: ResolvedSpec) -> PlacementEstimate:
    parts = _training_parts(kind, shapes, resolved.spec)
    data = {MemoryPartKind.DATA: _data_bytes(resolved)}
    if kind is DeviceKind.CPU:
        host = _memory({**parts, **data}, _CPU_CONTEXT_BYTES)
        return PlacementEstimate(device=kind, device_count=1, gpu=None, host=host)
    # Weights pass through host memory on their way to the GPU.
    loading = {MemoryPartKind.WEIGHTS: _FP32 * shapes.parameters}
    # Each of several devices holds the whole model (DDP), so the need on each is the same.
    count = 1 if resolved.spec.placement is None else resolved.spec.placement.device_count or 1
    return PlacementEstimate(
        device=kind,
        device_count=count,
        gpu=_memory(parts, _CUDA_CONTEXT_BYTES),
        host=_memory({**loading, **data}, _CUDA_HOST_CONTEXT_BYTES),
    )


def _training_parts(kind: DeviceKind, shapes: Shapes, spec: TrainingSpec) -> dict[MemoryPartKind, int]:
    """Return what stands where the training runs."""
    optim = Optimizer.ADAMW_TORCH_FUSED if spec.training is None else spec.training.optim
    weights = _weight_bytes(shapes, spec)
    state_bytes = _STATE_BYTES[optim or Optimizer.ADAMW_TORCH_FUSED]
    without_reference = spec.lora is not None or spec.task is not Task.DPO
    compiler = _COMPILER_BYTES if spec.training is not None and spec.training.torch_compile else 0
    # Autocast keeps a copy of the weights in half precision; `auto` chooses that on a GPU.
    full = spec.precision is Precision.FP32 or (kind is DeviceKind.CPU and spec.precision is Precision.AUTO)
    casts = 0 if full else 2 * shapes.parameters
    # While gradients flow back, as much as half of what was kept stands beside it.
    workspace = _FP32 * shapes.activations.kept // 2 + casts + compiler
    return {
        MemoryPartKind.WEIGHTS: weights,
        MemoryPartKind.ADAPTERS: _FP32 * shapes.adapters,
        MemoryPartKind.GRADIENTS: _FP32 * shapes.trained,
        MemoryPartKind.OPTIMIZER: int(state_bytes * shapes.trained),
        MemoryPartKind.ACTIVATIONS: _FP32 * shapes.activations.kept,
        # The logits, their gradient and the softmax between them.
        MemoryPartKind.LOGITS: 3 * _FP32 * shapes.activations.logits,
        MemoryPartKind.WORKSPACE: workspace,
        MemoryPartKind.REFERENCE: 0 if without_reference else weights,
    }


def _weight_bytes(shapes: Shapes, spec: TrainingSpec) -> int:
    plain = shapes.parameters - shapes.quantized
    frozen_in_half = spec.lora is not None and spec.precision in (Precision.BF16, Precision.FP16)
    width = _FP32 if spec.task is Task.IMAGE_CLASSIFICATION or not frozen_in_half else 2
    packed = (
        0.0 if spec.quantization is None else _QUANTIZED_BYTES[spec.quantization.method] * shapes.quantized
    )
    return int(width * plain + packed)


def _memory(parts: Mapping[MemoryPartKind, int], context_bytes: int) -> MemoryEstimate:
    allocated_bytes = sum(parts.values())
    exact_bytes = sum(size for kind, size in parts.items() if kind in _EXACT)
    guessed_bytes = allocated_bytes - exact_bytes
    margin_bytes = int(_EXACT_MARGIN * exact_bytes + _GUESSED_MARGIN * guessed_bytes) + _MARGIN_BYTES
    sizes = sorted(((size, kind) for kind, size in parts.items() if size), reverse=True)
    return MemoryEstimate(
        peak_allocated_bytes=allocated_bytes,
        peak_reserved_bytes=allocated_bytes,
        context_bytes=context_bytes,
        margin_bytes=margin_bytes,
        low_bytes=int(_LOW_SHARE * (allocated_bytes + context_bytes)),
        high_bytes=allocated_bytes + context_bytes + margin_bytes,
        parts=tuple(MemoryPart(kind=kind, size_bytes=size) for size, kind in sizes),
    )


def _data_bytes(resolved: ResolvedSpec) -> int:
    """Return what decoding and batching take in host memory."""
    spec = resolved.spec
    workers = 0 if spec.training is None else spec.training.dataloader_num_workers or 0
    if spec.task is not Task.IMAGE_CLASSIFICATION:
        # Rows are mapped from disk; what is counted is their pages while they are tokenised.
        return min(resolved.dataset.unpacked_bytes, GIB) + 64 * MIB + workers * _LOADER_BYTES
    # One image decoded, as a copy in RGB and as floats; batches of training and evaluation, one of each
    # ahead.
    decoding = resolved.dataset.max_pixels * 3 * 6
    batches = 4 * batch_size(spec) * 3 * image_size(spec) ** 2 * _FP32
    return (1 + workers) * (decoding + batches) + workers * _LOADER_BYTES


def _disk_bytes(shapes: Shapes, resolved: ResolvedSpec) -> int:
    """Return what checkpoints, artifact and unpacked data take, twice where the store is on the same disk."""
    spec = resolved.spec
    kept = 2 if spec.checkpointing is None else spec.checkpointing.save_total_limit or 2
    optim = Optimizer.ADAMW_TORCH_FUSED if spec.training is None else spec.training.optim
    state = int(_STATE_BYTES[optim or Optimizer.ADAMW_TORCH_FUSED] * shapes.trained)
    written = _FP32 * (shapes.parameters if spec.lora is None else shapes.trained)
    # One more than is kept stands while the oldest is being removed, and one may be the best.
    runs = (kept + 2) * (written + state) + _FP32 * shapes.parameters
    fetched = sum(file.size_bytes for file in resolved.model.weight_files)
    data = resolved.dataset.size_bytes + resolved.dataset.unpacked_bytes
    return 2 * runs + fetched + data + _MARGIN_BYTES


def _linear_parameters(model: nn.Module) -> int:
    """Return the parameters that a quantiser packs: those of linear layers but the head's."""
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return sum(
        m.weight.numel() for name, m in layers if name.rpartition(".")[2] not in ("lm_head", "classifier")
    )


def _assumptions(resolved: ResolvedSpec) -> tuple[str, ...]:
    assumed = [
        "formulas over the model's shapes, not a run of it: expect the actual peak well below",
        "activations and logits in fp32, whatever the precision",
    ]
    if not resolved.dataset.digest:
        assumed.append("a data set of usual size, since none was given")
    if resolved.spec.task is not Task.IMAGE_CLASSIFICATION:
        assumed.append("every sequence as long as text.max_length, logits kept whole")
    return tuple(assumed)
