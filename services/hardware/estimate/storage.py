"""In how many bytes a job keeps its weights, on the device and on the way there."""

from services.common.specs import DeviceKind, PlacementOptions, Precision, QuantizationMethod, TrainingSpec
from services.hardware.estimate.shapes import Shapes

FP32 = 4
_HALF = 2
# Scales and what bitsandbytes keeps beside them included.
_PACKED_BYTES = {QuantizationMethod.INT8: 1.1, QuantizationMethod.NF4: 0.6}
# Pinned memory is handed out in powers of two.
_PINNED = 2
# One layer's experts are on their way while those before compute.
_STREAMED_LAYERS = 2
# Packed experts become numbers so many bytes at a time, twice over while a gradient is computed.
_UNPACKED_BYTES = 2 * (512 << 20)
# Larger jobs have larger blocks, which go back at once.
_FRAGMENT_BYTES = 3 << 29


def in_half(spec: TrainingSpec, kind: DeviceKind) -> bool:
    """Whether a job computes in 16 bit; `auto` means that on a GPU."""
    if spec.precision in (Precision.BF16, Precision.FP16):
        return True
    return kind is DeviceKind.CUDA and spec.precision is not Precision.FP32


def width(spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return the bytes of one unpacked weight: trained ones in fp32, frozen ones as they compute."""
    return _HALF if spec.lora is not None and in_half(spec, kind) else FP32


def activation_width(spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return the bytes of one number that a step keeps."""
    return _HALF if in_half(spec, kind) else FP32


def packed_experts_bytes(shapes: Shapes, spec: TrainingSpec) -> int:
    """Return what a mixture's experts take in few bits. 0: they are not quantised."""
    return 0 if spec.quantization is None else int(_PACKED_BYTES[spec.quantization.method] * shapes.experts)


def weight_bytes(shapes: Shapes, spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return what the weights take on the device that trains."""
    if spec.quantization is None:
        return width(spec, kind) * shapes.parameters
    each = _PACKED_BYTES[spec.quantization.method]
    plain = shapes.parameters - shapes.linear - shapes.experts
    experts = packed_experts_bytes(shapes, spec)
    if streams_experts(spec):
        experts = min(experts, int(_STREAMED_LAYERS * each * shapes.expert_layer))
    return int(width(spec, kind) * plain + each * shapes.linear) + experts


def streams_experts(spec: TrainingSpec) -> bool:
    """Whether the experts stay in host memory."""
    return bool((spec.placement or PlacementOptions()).expert_offload)


def pinned_bytes(shapes: Shapes, spec: TrainingSpec) -> int:
    """Return what experts in host memory take there."""
    return _PINNED * packed_experts_bytes(shapes, spec) if streams_experts(spec) else 0


def unpacking_bytes(shapes: Shapes, spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return what stands beside experts while they compute: unpacked ones, or their sums with an adapter."""
    if spec.quantization is not None:
        return min(_UNPACKED_BYTES, 2 * FP32 * shapes.expert_layer)
    if spec.lora is None or not spec.lora.target_parameters:
        return 0
    # peft adds its product to the whole stack; the sum is kept for the backward pass unless recomputed.
    recomputed = spec.training is not None and bool(spec.training.gradient_checkpointing)
    return width(spec, kind) * (2 * shapes.expert_layer if recomputed else shapes.experts)


def fragment_bytes(shapes: Shapes, spec: TrainingSpec) -> int:
    """Return what a CPU's allocator keeps of what was freed in between: activations, and unpacked weights.

    Measured with glibc: blocks below 32 MiB stay with the process while what was allocated among them lives.
    """
    unpacked = FP32 * shapes.linear if spec.quantization is not None else 0
    return min(_FRAGMENT_BYTES, FP32 * shapes.recomputed // 2 + unpacked)


def loading_bytes(shapes: Shapes, spec: TrainingSpec, kind: DeviceKind) -> int:
    """Return what whole weights take in host memory: when they are read, and when an adapter is merged.

    A quantised job merges its adapter into its base's own weights, never into the quantised ones.
    """
    # A GGUF file is unpacked into one model, from which another takes its weights.
    copies = 2 if spec.model.gguf is not None else 1
    return copies * width(spec, kind) * shapes.parameters
