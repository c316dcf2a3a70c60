"""What hardware and software must be able to do for a job, each rule with its reason in words.

A rule returns why a node cannot run a job and the nearest thing that works, or None where it can. Rules about
packages are silent until a trainer has said what it can import: the node is not ready then and the job waits
anyway.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.common.specs import (
    Attention,
    DeviceKind,
    Optimizer,
    Precision,
    QuantizationMethod,
    ResolvedSpec,
    ShardingStrategy,
    TrainingSpec,
)
from services.hardware.resources import Gpu, Node, Software


@dataclass(frozen=True)
class Case:
    """A job on a kind of device of a node."""

    node: Node
    resolved: ResolvedSpec
    device: DeviceKind

    @property
    def spec(self) -> TrainingSpec:
        """The job's spec."""
        return self.resolved.spec

    @property
    def on_cpu(self) -> bool:
        """Whether the CPU would train."""
        return self.device is DeviceKind.CPU

    @property
    def software(self) -> Software | None:
        """What the trainer can import; None until it has said so."""
        return self.node.software

    def lacks(self, package: str) -> str | None:
        """Return why the trainer cannot import a package, or None where it can or has not said."""
        if self.software is None or _named(package, self.software.packages) is not None:
            return None
        return _named(package, self.software.import_errors) or "it is not installed"


def _named(package: str, table: Mapping[str, str]) -> str | None:
    # A package is imported as flash_attn and installed as flash-attn.
    return table.get(package, table.get(package.replace("_", "-")))


Rule = Callable[[Case], str | None]


def _task(case: Case) -> str | None:
    if case.software is None or case.spec.task in case.software.tasks:
        return None
    offered = ", ".join(case.software.tasks) or "nothing"
    return f"the trainer of {case.node.name} trains {offered}, not {case.spec.task}: choose one of its tasks"


def _cuda(case: Case) -> str | None:
    if case.on_cpu:
        return None
    if not case.node.gpus:
        return (
            f"{case.node.name} has no NVIDIA GPU: set placement.device to cpu or auto, or choose another node"
        )
    if case.software is not None and not case.software.torch_cuda:
        return (
            f"the trainer of {case.node.name} has a torch without CUDA: install a CUDA build of torch there"
        )
    return None


def _sharding(case: Case) -> str | None:
    if case.spec.placement is None or case.spec.placement.sharding is not ShardingStrategy.FSDP:
        return None
    return (
        "FSDP is not offered yet: set placement.sharding to ddp, where each device holds the whole model; "
        "adapters (lora) need the least memory"
    )


def _offload(case: Case) -> str | None:
    placement = case.spec.placement
    asked = placement is not None and (placement.expert_offload or placement.activation_offload)
    if not asked or not case.on_cpu:
        return None
    return f"{case.node.name} would train on its CPU, whose memory offloading goes to: leave it out"


def _liger(case: Case) -> str | None:
    if case.spec.training is None or not case.spec.training.use_liger_kernel:
        return None
    if case.on_cpu:
        return f"liger's kernels need a GPU and {case.node.name} would train on its CPU: leave them out"
    if reason := case.lacks("liger_kernel"):
        return f"the trainer of {case.node.name} cannot import liger_kernel ({reason}): leave it out"
    return None


def _flash_attention_2(case: Case) -> str | None:
    if case.spec.attn_implementation is not Attention.FLASH_ATTENTION_2:
        return None
    if case.on_cpu:
        return (
            f"FlashAttention-2 runs on NVIDIA GPUs only and {case.node.name} would train on its CPU: "
            "set attn_implementation to sdpa, or to auto"
        )
    # Without any GPU the rule `cuda` has said so already.
    if case.node.gpus and not capable_gpus(case):
        found = _capabilities(case.node.gpus)
        return f"FlashAttention-2 needs compute capability 8.0 to 9.x; {case.node.name} has {found}: use sdpa"
    if reason := case.lacks("flash_attn"):
        return f"the trainer of {case.node.name} cannot import flash_attn ({reason}): use sdpa, or install it"
    return None


def _bf16(case: Case) -> str | None:
    if case.spec.precision is not Precision.BF16 or case.on_cpu or not case.node.gpus or capable_gpus(case):
        return None
    found = _capabilities(case.node.gpus)
    return f"bf16 needs compute capability 8.0, and {case.node.name} has {found}: use fp16"


def _fp16(case: Case) -> str | None:
    if case.spec.precision is not Precision.FP16 or not case.on_cpu:
        return None
    return f"fp16 needs a GPU and {case.node.name} would train on its CPU: use fp32, bf16, or auto"


def _quantization(case: Case) -> str | None:
    if case.spec.quantization is None:
        return None
    method = case.spec.quantization.method
    if reason := case.lacks("bitsandbytes"):
        return (
            f"{method} needs bitsandbytes, which the trainer cannot import ({reason}): leave quantization out"
        )
    four_bit_on_cpu = method is QuantizationMethod.NF4 and case.on_cpu and case.node.cpu is not None
    if four_bit_on_cpu and not {"avx2", "neon"} & set(case.node.cpu.instruction_sets):  # type: ignore[union-attr]
        return f"nf4 on a CPU needs AVX2, which {case.node.name} lacks: leave quantization out"
    return None


def _optimizer(case: Case) -> str | None:
    eight_bit = (Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT)
    optim = None if case.spec.training is None else case.spec.training.optim
    if optim not in eight_bit:
        return None
    if reason := case.lacks("bitsandbytes"):
        return f"{optim} needs bitsandbytes, which the trainer cannot import ({reason}): use adafactor"
    return None


def _lora(case: Case) -> str | None:
    reason = case.lacks("peft") if case.spec.lora is not None else None
    return (
        None if reason is None else f"lora needs peft, which the trainer cannot import ({reason}): install it"
    )


RULES: dict[str, Rule] = {
    "task": _task,
    "cuda": _cuda,
    "sharding": _sharding,
    "offload": _offload,
    "liger": _liger,
    "flash_attention_2": _flash_attention_2,
    "bf16": _bf16,
    "fp16": _fp16,
    "quantization": _quantization,
    "optimizer": _optimizer,
    "lora": _lora,
}
"""Every rule by its name; what one returns rejects the job on that node."""


def broken_rules(case: Case) -> dict[str, str]:
    """Return the name of every rule that the case breaks, with the reason."""
    found = {name: rule(case) for name, rule in RULES.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def capable_gpus(case: Case) -> list[Gpu]:
    """Return the node's GPUs whose compute capability permits what the spec insists on."""
    low, high = 0.0, float("inf")
    # Blackwell (10.0 and above) has no FlashAttention-2 kernels; bf16 came with Ampere.
    if case.spec.precision is Precision.BF16:
        low = 8.0
    if case.spec.attn_implementation is Attention.FLASH_ATTENTION_2:
        low, high = 8.0, 10.0
    return [gpu for gpu in case.node.gpus if low <= float(gpu.compute_capability or 0) < high]


def _capabilities(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.product} with {gpu.compute_capability}" for gpu in gpus)
