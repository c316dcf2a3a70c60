"""What a node can run but pays for, in words: warnings of a verdict, never its decision."""

from services.common.specs import Optimizer, Precision
from services.hardware.admission.rules import Case, Rule

_BF16_UNITS = {"avx512_bf16", "amx_bf16", "arm_bf16"}


def _bf16_on_cpu(case: Case) -> str | None:
    if not case.on_cpu or case.spec.precision is not Precision.BF16 or case.node.cpu is None:
        return None
    if _BF16_UNITS & set(case.node.cpu.instruction_sets):
        return None
    return f"the CPU of {case.node.name} has no bf16 units: bf16 is slower there than fp32"


def _paged_on_cpu(case: Case) -> str | None:
    optim = None if case.spec.training is None else case.spec.training.optim
    if not case.on_cpu or optim is not Optimizer.PAGED_ADAMW_8BIT:
        return None
    return "a paged optimiser pages nothing on a CPU: its state stays in memory"


def _mamba(case: Case) -> str | None:
    if "mamba" not in case.resolved.model.model_type:
        return None
    reason = case.lacks("mamba_ssm") or case.lacks("causal_conv1d")
    if case.software is None or reason is None:
        return None
    return (
        "without its kernels Mamba loops over every token in Python: slow, and it keeps far more activations"
    )


def _workers(case: Case) -> str | None:
    workers = 0 if case.spec.training is None else case.spec.training.dataloader_num_workers or 0
    if case.node.cpu is None or workers <= case.node.cpu.usable_cores:
        return None
    return f"{workers} loader processes share the {case.node.cpu.usable_cores:g} cores of {case.node.name}"


def _large_on_cpu(case: Case) -> str | None:
    count = case.resolved.model.parameter_count
    if not case.on_cpu or count < 1_000_000_000:
        return None
    return f"{count / 1e9:.1f} billion parameters on a CPU take minutes a step"


_COSTS: tuple[Rule, ...] = (_bf16_on_cpu, _paged_on_cpu, _mamba, _workers, _large_on_cpu)


def costs_of(case: Case) -> tuple[str, ...]:
    """Return everything that is allowed here and costs something."""
    found = (cost(case) for cost in _COSTS)
    return tuple(text for text in found if text is not None)
