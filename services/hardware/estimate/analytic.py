"""The first estimate: formulas over a model's shapes, with a wide margin above them.

It is meant to be an upper bound, so that what it admits does not die. It says little about how much less
would do: the interval that goes with it is wide.
"""

import time
from collections.abc import Mapping

from services.common.specs import DeviceKind, Optimizer, ResolvedSpec, Task, TrainingSpec
from services.hardware.estimate.activations import batch_size, image_size
from services.hardware.estimate.logits import logit_bytes
from services.hardware.estimate.rules.placement import needs_gpu
from services.hardware.estimate.shapes import Shapes, measure
from services.hardware.estimate.storage import (
    FP32,
    activation_width,
    fragment_bytes,
    in_half,
    loading_bytes,
    pinned_bytes,
    unpacking_bytes,
    weight_bytes,
)
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
# trl, datasets and bitsandbytes on top of it, and a tokenizer at work.
_TEXT_CONTEXT_BYTES = 320 * MIB
# The CUDA libraries and their pinned buffers stand in host memory too.
_CUDA_HOST_CONTEXT_BYTES = 4 * GIB
_CUDA_CONTEXT_BYTES = 768 * MIB
# Not measured: what NCCL's channels between the GPUs of a node take on each.
_NCCL_BYTES = 512 * MIB
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

# Bytes of optimiser state for each trained parameter, transient copies included.
_STATE_BYTES = {
    Optimizer.ADAMW_TORCH_FUSED: 8,
    Optimizer.ADAMW_TORCH: 12,
    Optimizer.ADAMW_8BIT: 2.5,
    Optimizer.PAGED_ADAMW_8BIT: 2.5,
    Optimizer.ADAFACTOR: 5,
    Optimizer.SGD: 0,
}
# What one step keeps, which is not there yet when weights are read, and no longer when they are written.
_OF_A_STEP = (MemoryPartKind.ACTIVATIONS, MemoryPartKind.LOGITS, MemoryPartKind.WORKSPACE)
# Of activations that are offloaded, what is on the device at a time.
_KEPT_SHARE = 0.3


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


def _kinds(spec: TrainingSpec) -> tuple[DeviceKind, ...]:
    asked = DeviceKind.AUTO if spec.placement is None else spec.placement.device or DeviceKind.AUTO
    if asked is not DeviceKind.AUTO:
        return (asked,)
    return (DeviceKind.CUDA,) if needs_gpu(spec) else (DeviceKind.CPU, DeviceKind.CUDA)


def _placement(kind: DeviceKind, shapes: Shapes, resolved: ResolvedSpec) -> PlacementEstimate:
    spec = resolved.spec
    parts = _training_parts(kind, shapes, spec)
    data = {MemoryPartKind.DATA: _data_bytes(resolved)}
    text = spec.task is not Task.IMAGE_CLASSIFICATION
    if kind is DeviceKind.CPU:
        # Weights are read before, and merged after, what a step keeps.
        within = sum(parts[part] for part in _OF_A_STEP)
        whole = loading_bytes(shapes, spec, kind) - parts[MemoryPartKind.WEIGHTS]
        parts[MemoryPartKind.WORKSPACE] += max(0, whole - within)
        context = _CPU_CONTEXT_BYTES + (_TEXT_CONTEXT_BYTES if text else 0)
        host = _memory({**parts, **data}, context)
        return PlacementEstimate(device=kind, device_count=1, gpu=None, host=host)
    # Weights pass through host memory on their way to the GPU, and adapters are merged there: whole ones
    # are gone while experts are streamed.
    through = {MemoryPartKind.WEIGHTS: max(loading_bytes(shapes, spec, kind), pinned_bytes(shapes, spec))}
    if spec.placement is not None and spec.placement.activation_offload:
        through[MemoryPartKind.ACTIVATIONS] = parts[MemoryPartKind.ACTIVATIONS]
        # Those of the layer that computes are on the device, and the next one's on their way.
        parts[MemoryPartKind.ACTIVATIONS] = int(_KEPT_SHARE * parts[MemoryPartKind.ACTIVATIONS])
    # Each of several devices holds the whole model (DDP), so the need on each is the same, and has a process
    # of its own that reads weights and data for itself.
    count = 1 if spec.placement is None else spec.placement.device_count or 1
    if count > 1:
        # Gradients are added up over the devices in buckets that hold them once more.
        parts[MemoryPartKind.WORKSPACE] += parts[MemoryPartKind.GRADIENTS] + _NCCL_BYTES
    return PlacementEstimate(
        device=kind,
        device_count=count,
        gpu=_memory(parts, _CUDA_CONTEXT_BYTES),
        host=_memory(
            {part: count * size for part, size in {**through, **data}.items()},
            count * _CUDA_HOST_CONTEXT_BYTES,
        ),
    )


def _training_parts(kind: DeviceKind, shapes: Shapes, spec: TrainingSpec) -> dict[MemoryPartKind, int]:
    """Return what stands where the training runs."""
    weights = weight_bytes(shapes, spec, kind)
    compiler = _COMPILER_BYTES if spec.training is not None and spec.training.torch_compile else 0
    # Autocast keeps a copy in half precision of weights that are stored in fp32.
    casts = 2 * (shapes.trained if spec.lora is not None else shapes.parameters)
    casts = casts if in_half(spec, kind) else 0
    activations = activation_width(spec, kind) * shapes.activations
    # While gradients flow back, as much as half of what was kept stands beside it.
    fragments = fragment_bytes(shapes, spec) if kind is DeviceKind.CPU else 0
    workspace = fragments + activations // 2 + casts + compiler + unpacking_bytes(shapes, spec, kind)
    return {
        MemoryPartKind.WEIGHTS: weights,
        MemoryPartKind.ADAPTERS: FP32 * shapes.adapters,
        MemoryPartKind.GRADIENTS: FP32 * shapes.trained,
        MemoryPartKind.OPTIMIZER: int(_state_bytes(spec, kind) * shapes.trained),
        MemoryPartKind.ACTIVATIONS: activations,
        MemoryPartKind.LOGITS: logit_bytes(shapes, spec, kind),
        MemoryPartKind.WORKSPACE: workspace,
        MemoryPartKind.REFERENCE: weights if _second_model(spec) else 0,
    }


def _second_model(spec: TrainingSpec) -> bool:
    """Whether the reference is a model of its own, not an adapter turned off or figures of before."""
    precomputed = spec.preference is not None and spec.preference.precompute_ref_log_probs
    return spec.task is Task.DPO and spec.lora is None and not precomputed


def _state_bytes(spec: TrainingSpec, kind: DeviceKind = DeviceKind.CUDA) -> float:
    asked = None if spec.training is None else spec.training.optim
    optim = asked or Optimizer.ADAMW_TORCH_FUSED
    # On a CPU small tensors keep their state whole, and nothing is paged.
    if kind is DeviceKind.CPU and optim in (Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT):
        optim = Optimizer.ADAMW_TORCH
    return _STATE_BYTES[optim]


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
    batches = 4 * batch_size(spec) * 3 * image_size(spec) ** 2 * FP32
    return (1 + workers) * (decoding + batches) + workers * _LOADER_BYTES


def _disk_bytes(shapes: Shapes, resolved: ResolvedSpec) -> int:
    """Return what checkpoints, artifact and unpacked data take, twice where the store is on the same disk."""
    spec = resolved.spec
    kept = 2 if spec.checkpointing is None else spec.checkpointing.save_total_limit or 2
    state = int(_state_bytes(spec) * shapes.trained)
    written = FP32 * (shapes.parameters if spec.lora is None else shapes.trained)
    # One more than is kept stands while the oldest is being removed, and one may be the best.
    runs = (kept + 2) * (written + state) + FP32 * shapes.parameters
    fetched = sum(file.size_bytes for file in resolved.model.weight_files)
    data = resolved.dataset.size_bytes + resolved.dataset.unpacked_bytes
    # Text is written down once more, as tokens, by each device's process.
    devices = 1 if spec.placement is None else spec.placement.device_count or 1
    data += 2 * devices * resolved.dataset.size_bytes
    return 2 * runs + fetched + data + _MARGIN_BYTES


def _assumptions(resolved: ResolvedSpec) -> tuple[str, ...]:
    assumed = [
        "formulas over the model's shapes, not a run of it: expect the actual peak well below",
        "activations in the precision of the computation, logits in fp32",
    ]
    if not resolved.dataset.digest:
        assumed.append("a data set of usual size, since none was given")
    if resolved.spec.task is not Task.IMAGE_CLASSIFICATION:
        assumed.append("every sequence as long as text.max_length")
    return tuple(assumed)
