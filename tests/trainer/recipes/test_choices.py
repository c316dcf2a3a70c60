"""What recipes choose by hardware, and what they refuse, with reasons."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, PreTrainedConfig, ViTForImageClassification

from services.common.errors import InvalidModel, InvalidSpec, ServiceError
from services.common.specs import (
    Attention,
    DeviceKind,
    PlacementOptions,
    Precision,
    QuantizationMethod,
    QuantizationOptions,
    ShardingStrategy,
    TrainingSpec,
)
from services.trainer.recipes import Hardware, Weights
from services.trainer.recipes.attention import choose_attention
from services.trainer.recipes.image_classification import RECIPE, confusion, per_label
from services.trainer.recipes.precision import choose_precision
from tests.trainer.specs import LORA, SPEC, config_json

pytestmark = pytest.mark.filterwarnings("ignore")

CPU = Hardware()
HOPPER = Hardware(device=DeviceKind.CUDA, compute_capability=(9, 0), flash_attention=True)
TURING = replace(HOPPER, compute_capability=(7, 5))
BLACKWELL = replace(HOPPER, compute_capability=(12, 0))


def config(**changes: Any) -> PreTrainedConfig:
    values = json.loads(config_json(("bar", "disc", "ring"), **changes))
    return AutoConfig.for_model(values.pop("model_type"), **values)


@pytest.mark.parametrize(
    ("hardware", "chosen"), [(CPU, Precision.FP32), (HOPPER, Precision.BF16), (TURING, Precision.FP16)]
)
def test_precision_is_the_best_that_the_hardware_has(hardware: Hardware, chosen: Precision) -> None:
    assert choose_precision(Precision.AUTO, hardware) is chosen


@pytest.mark.parametrize(("hardware", "wanted"), [(TURING, Precision.BF16), (CPU, Precision.FP16)])
def test_precision_that_the_hardware_lacks_is_refused(hardware: Hardware, wanted: Precision) -> None:
    with pytest.raises(InvalidSpec, match=wanted.value):
        choose_precision(wanted, hardware)


@pytest.mark.parametrize(
    ("hardware", "precision", "chosen", "reason"),
    [
        (HOPPER, Precision.BF16, "flash_attention_2", "on a GPU that has it"),
        (HOPPER, Precision.FP32, "sdpa", "bf16 or fp16 only"),
        (TURING, Precision.FP16, "sdpa", "8.0 to 9.x and this one has 7.5"),
        (BLACKWELL, Precision.BF16, "sdpa", "8.0 to 9.x and this one has 12.0"),
        (replace(HOPPER, flash_attention=False), Precision.BF16, "sdpa", "not installed"),
        (CPU, Precision.FP32, "sdpa", "never runs on a CPU"),
    ],
)
def test_attention_is_chosen_with_its_reason(
    hardware: Hardware, precision: Precision, chosen: str, reason: str
) -> None:
    choice = choose_attention(Attention.AUTO, ViTForImageClassification, precision, hardware)
    assert choice.implementation == chosen
    assert reason in choice.reason


def test_attention_asked_for_is_given_or_refused() -> None:
    choice = choose_attention(Attention.EAGER, ViTForImageClassification, Precision.FP32, CPU)
    assert choice.implementation == "eager"
    with pytest.raises(InvalidSpec, match="use sdpa or auto"):
        choose_attention(Attention.FLASH_ATTENTION_2, ViTForImageClassification, Precision.BF16, TURING)


def refusal(spec: TrainingSpec, **changes: Any) -> str:
    with pytest.raises(ServiceError) as caught:
        RECIPE.build(spec, config(**changes))
    return str(caught.value)


CASES: dict[str, Callable[[], str]] = {
    "quantises no image classifiers": lambda: refusal(
        replace(SPEC, lora=LORA, quantization=QuantizationOptions(method=QuantizationMethod.NF4))
    ),
    "divides batches over devices": lambda: refusal(
        replace(SPEC, placement=PlacementOptions(device_count=2, sharding=ShardingStrategy.FSDP))
    ),
    "offloads nothing": lambda: refusal(replace(SPEC, placement=PlacementOptions(activation_offload=True))),
    "images are read as RGB": lambda: refusal(SPEC, num_channels=1),
    "peft refuses it": lambda: refusal(replace(SPEC, lora=replace(LORA, target_modules=("query",)))),
    "leaves nothing open": lambda: refusal(replace(SPEC, seed=None)),
}


@pytest.mark.parametrize("reason", CASES)
def test_what_cannot_be_built_is_refused_with_the_reason(reason: str) -> None:
    assert reason in CASES[reason]()


def test_architecture_that_classifies_no_images_is_refused() -> None:
    with pytest.raises(InvalidModel, match="no image classifier"):
        RECIPE.build(SPEC, AutoConfig.for_model("llama"))


def test_size_that_pretrained_positions_do_not_have_is_refused() -> None:
    weights = Weights(tensors={}, labels=(), complete=True)
    with pytest.raises(InvalidSpec, match="made for 32"):
        RECIPE.build(SPEC, config(image_size=32), weights)


def test_adapter_of_all_linear_layers_trains_the_head_whole_and_nothing_else() -> None:
    trainer = RECIPE.build(replace(SPEC, lora=LORA), config())
    trained = [name for name, parameter in trainer.network.named_parameters() if parameter.requires_grad]
    head = [name for name in trained if "lora_" not in name]
    assert [name.rpartition(".")[2] for name in head] == ["weight", "bias"]
    assert all("classifier.modules_to_save" in name for name in head)
    assert any("fc1.lora_A" in name for name in trained)
    assert not any("classifier" in name for name in trained if "lora_" in name)


def test_what_is_random_depends_on_the_seed_alone() -> None:
    def weights(seed: int, draw_before: int) -> dict[str, torch.Tensor]:
        torch.rand(draw_before)
        network = RECIPE.build(replace(SPEC, lora=LORA, seed=seed), config()).network
        return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}

    first, again, other = weights(7, 0), weights(7, 100), weights(8, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_figures_of_labels_that_never_occur_are_zero() -> None:
    import numpy as np

    counts = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    precision, recall, f1 = per_label(counts)
    assert precision.tolist() == [1.0, 0.5, 0.0]
    assert recall.tolist() == [0.5, 1.0, 0.0]
    assert f1.tolist() == pytest.approx([2 / 3, 2 / 3, 0.0])


def test_naming_the_tasks_loads_no_torch() -> None:
    program = "import sys, services.trainer.recipes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
