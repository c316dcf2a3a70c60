from dataclasses import replace
from typing import Any

import pytest

from services.common.specs import (
    Attention,
    DeviceKind,
    LoraOptions,
    Optimizer,
    Precision,
    QuantizationMethod,
    QuantizationOptions,
    ShardingStrategy,
    Task,
    TrainingOptions,
)
from services.hardware.admission.costs import costs_of
from services.hardware.admission.rules import Case, broken_rules
from services.hardware.resources import Cpu, Software
from tests.hardware.samples import SOFTWARE, gpu, inventory, node, placed, resolved_spec

NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
FLASH = {"attn_implementation": Attention.FLASH_ATTENTION_2}
EIGHT_BIT = TrainingOptions(optim=Optimizer.ADAMW_8BIT)
WITH_BNB = replace(SOFTWARE, packages={**SOFTWARE.packages, "bitsandbytes": "0.50"})
WITH_FLASH = replace(SOFTWARE, packages={**SOFTWARE.packages, "flash_attn": "2.8"})
BLACKWELL = gpu(compute_capability="10.0", product="NVIDIA B200")
TURING = gpu(compute_capability="7.5", product="NVIDIA T4")


def broken(
    device: DeviceKind, gpus: Any = (), software: Software | None = SOFTWARE, **spec: Any
) -> dict[str, str]:
    seen = node(inventory(gpus=gpus), software=software)
    return broken_rules(Case(seen, resolved_spec(**spec), device))


def on_cpu(software: Software | None = SOFTWARE, **spec: Any) -> dict[str, str]:
    return broken(DeviceKind.CPU, (), software, **spec)


def on_gpu(*gpus: Any, software: Software | None = SOFTWARE, **spec: Any) -> dict[str, str]:
    return broken(DeviceKind.CUDA, gpus or (gpu(),), software, **spec)


def test_a_plain_job_breaks_no_rule() -> None:
    assert on_cpu() == {}
    assert on_gpu() == {}
    assert on_gpu(gpu(), gpu(), placement=placed(DeviceKind.CUDA, device_count=2)) == {}


@pytest.mark.parametrize(
    ("found", "rule", "remedy"),
    [
        (on_cpu(task=Task.SFT), "task", "image_classification"),
        (broken(DeviceKind.CUDA), "cuda", "cpu or auto"),
        (on_gpu(software=replace(SOFTWARE, torch_cuda="")), "cuda", "CUDA build"),
        (on_gpu(placement=placed(DeviceKind.CUDA, sharding=ShardingStrategy.FSDP)), "sharding", "to ddp"),
        (on_cpu(placement=placed(DeviceKind.AUTO, expert_offload=True)), "offload", "leave it out"),
        (on_cpu(training=TrainingOptions(use_liger_kernel=True)), "liger", "leave them out"),
        (on_gpu(training=TrainingOptions(use_liger_kernel=True)), "liger", "leave it out"),
        (on_cpu(**FLASH), "flash_attention_2", "sdpa"),
        (on_gpu(software=SOFTWARE, **FLASH), "flash_attention_2", "install it"),
        (on_gpu(TURING, software=WITH_FLASH, **FLASH), "flash_attention_2", "8.0 to 9.x"),
        (on_gpu(BLACKWELL, software=WITH_FLASH, **FLASH), "flash_attention_2", "use sdpa"),
        (on_gpu(TURING, precision=Precision.BF16), "bf16", "use fp16"),
        (on_cpu(precision=Precision.FP16), "fp16", "bf16"),
        (on_cpu(quantization=NF4), "quantization", "leave quantization out"),
        (on_cpu(training=EIGHT_BIT), "optimizer", "adafactor"),
        (on_cpu(lora=LoraOptions(), software=replace(SOFTWARE, packages={})), "lora", "install"),
    ],
)
def test_a_broken_rule_says_why_and_what_works(found: dict[str, str], rule: str, remedy: str) -> None:
    assert list(found) == [rule]
    assert remedy in found[rule]


def test_what_the_node_can_do_is_let_through() -> None:
    assert on_gpu(software=WITH_FLASH, **FLASH) == {}
    assert on_gpu(precision=Precision.BF16) == {}
    assert on_gpu(TURING, precision=Precision.FP16) == {}
    assert on_cpu(precision=Precision.BF16) == {}
    assert on_cpu(software=WITH_BNB, quantization=NF4, training=EIGHT_BIT) == {}


def test_one_gpu_that_can_is_enough() -> None:
    assert on_gpu(TURING, gpu(1), precision=Precision.BF16) == {}


def test_nf4_on_a_cpu_needs_avx2() -> None:
    old = node(inventory(), software=WITH_BNB, cpu=Cpu(instruction_sets=("avx",)))
    assert "AVX2" in broken_rules(Case(old, resolved_spec(quantization=NF4), DeviceKind.CPU))["quantization"]


def test_the_import_error_of_a_package_is_told() -> None:
    software = replace(SOFTWARE, import_errors={"bitsandbytes": "libcudart.so.13 not found"})
    assert "libcudart.so.13" in on_cpu(software=software, quantization=NF4)["quantization"]


def test_a_package_counts_under_the_name_that_it_is_installed_by() -> None:
    software = replace(SOFTWARE, packages={**SOFTWARE.packages, "flash-attn": "2.8"})
    assert on_gpu(software=software, **FLASH) == {}


def test_packages_are_no_reason_before_the_trainer_has_spoken() -> None:
    assert on_cpu(software=None, quantization=NF4, task=Task.SFT, lora=LoraOptions()) == {}


def costs(**spec: Any) -> str:
    return " ".join(costs_of(Case(node(), resolved_spec(**spec), DeviceKind.CPU)))


def test_what_is_allowed_but_costs_is_told() -> None:
    assert costs() == ""
    assert "bf16" in costs(precision=Precision.BF16)
    assert "pages nothing" in costs(training=TrainingOptions(optim=Optimizer.PAGED_ADAMW_8BIT))
    assert "loops" in costs(model_type="mamba")
    assert "8 loader processes share the 4 cores" in costs(training=TrainingOptions(dataloader_num_workers=8))
    assert "8.0 billion" in costs(parameter_count=8_030_000_000)
