"""What a kind of device, or a way to use it, cannot do."""

from collections.abc import Iterator

from services.common.errors import InvalidSpec
from services.common.specs import (
    Attention,
    DeviceKind,
    PlacementOptions,
    Precision,
    QuantizationMethod,
    ShardingStrategy,
    Task,
    TrainingOptions,
    TrainingSpec,
)


def needs_gpu(spec: TrainingSpec) -> bool:
    """Whether a spec asks for what only a GPU has."""
    placement, training = spec.placement or PlacementOptions(), spec.training or TrainingOptions()
    return (
        spec.attn_implementation is Attention.FLASH_ATTENTION_2
        or spec.precision is Precision.FP16
        or bool(placement.expert_offload or placement.activation_offload or training.use_liger_kernel)
        or placement.sharding is ShardingStrategy.FSDP
        # A node has one CPU's memory, and as many GPUs as it has.
        or (placement.device_count or 1) > 1
    )


def cpu(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """A CPU has one memory, no fp16 and no GPU's kernels. FlashAttention is refused by each node."""
    placement = spec.placement
    if placement is None or placement.device is not DeviceKind.CPU:
        return
    if spec.precision is Precision.FP16:
        # Libraries take it and train in fp32.
        yield InvalidSpec("precision", "fp16", "a CPU trains in fp32 or bf16")
    if (placement.device_count or 1) > 1:
        limit = "a node has one host memory: set it to 1, or use cuda"
        yield InvalidSpec("placement.device_count", placement.device_count, limit)
    for field in ("expert_offload", "activation_offload"):
        if getattr(placement, field):
            limit = "on a CPU everything is in host memory already: leave it out, or use cuda"
            yield InvalidSpec(f"placement.{field}", True, limit)
    if placement.sharding is ShardingStrategy.FSDP:
        limit = "FSDP divides a job over GPUs: leave it out, or use cuda"
        yield InvalidSpec("placement.sharding", "fsdp", limit)
    if spec.training is not None and spec.training.use_liger_kernel:
        limit = "liger's kernels run on GPUs only: leave it out, or use cuda"
        yield InvalidSpec("training.use_liger_kernel", True, limit)


def precision(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """FlashAttention-2 has kernels for half precision only."""
    if spec.attn_implementation is Attention.FLASH_ATTENTION_2 and spec.precision is Precision.FP32:
        yield InvalidSpec("precision", "fp32", "FlashAttention-2 computes in bf16 or fp16 only: use auto")


def sharding(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """FSDP divides tensors of one number format over several devices."""
    placement = spec.placement
    if placement is None or placement.sharding is not ShardingStrategy.FSDP:
        return
    if (placement.device_count or 1) == 1:
        limit = "there is one device, and nothing to divide: set placement.device_count, or leave it out"
        yield InvalidSpec("placement.sharding", "fsdp", limit)
    if spec.quantization is not None:
        limit = f"FSDP cannot divide {spec.quantization.method} weights: use ddp, where each device holds all"
        yield InvalidSpec("placement.sharding", "fsdp", limit)
    if spec.task is Task.DPO and spec.lora is None:
        limit = "FSDP divides the weights that the reference is computed with: add lora, or use ddp"
        yield InvalidSpec("placement.sharding", "fsdp", limit)


def offload(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """Experts are streamed in 4 bit, to one device; activations are a text task's."""
    placement = spec.placement
    if placement is None:
        return
    if placement.expert_offload:
        if spec.quantization is None or spec.quantization.method is not QuantizationMethod.NF4:
            limit = "experts are streamed in 4 bit: set quantization.method to nf4, and add lora"
            yield InvalidSpec("placement.expert_offload", True, limit)
        if (placement.device_count or 1) > 1:
            limit = "experts are streamed to one device: set placement.device_count to 1"
            yield InvalidSpec("placement.expert_offload", True, limit)
    if placement.activation_offload and spec.task is Task.IMAGE_CLASSIFICATION:
        limit = "images keep theirs on the device: leave it out, or set training.gradient_checkpointing"
        yield InvalidSpec("placement.activation_offload", True, limit)


def kernels(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """Compiled graphs have no place for hooks, and liger knows language models only."""
    training, placement = spec.training, spec.placement or PlacementOptions()
    if training is None:
        return
    if training.use_liger_kernel and spec.task is Task.IMAGE_CLASSIFICATION:
        limit = "liger has kernels for language models: leave it out, or set torch_compile"
        yield InvalidSpec("training.use_liger_kernel", True, limit)
    if not training.torch_compile:
        return
    why = "a compiled model has no place for it: leave torch_compile out"
    if spec.quantization is not None:
        limit = f"{spec.quantization.method} weights are unpacked at every step, and {why}"
        yield InvalidSpec("training.torch_compile", True, limit)
    for field in ("expert_offload", "activation_offload"):
        if getattr(placement, field):
            limit = f"placement.{field} moves tensors between layers, and {why}"
            yield InvalidSpec("training.torch_compile", True, limit)
