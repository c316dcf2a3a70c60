"""What an adapter is put on: what trains, what is meant, and nothing in silence."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel
from transformers.models.mamba import modeling_mamba

from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions
from services.trainer.recipes.adapter import lora_config
from services.trainer.recipes.language_model import language_model_class
from services.trainer.recipes.targets import adapter_targets
from tests.trainer.recipes.tiny import FAMILIES, LORA, MIXTURES, NF4, adapted, config_of, gradients, model_of

pytestmark = pytest.mark.filterwarnings("ignore")

STACKS = ("experts.gate_up_proj", "experts.down_proj")
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}


def modules_adapted(model: PreTrainedModel, lora: LoraOptions = LORA) -> set[str]:
    """Return the paths of what got an adapter."""
    wrapped = get_peft_model(model, lora_config(model, lora))
    assert isinstance(wrapped, PeftModel)
    names = (name for name, each in wrapped.named_parameters() if each.requires_grad)
    return {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in names}


def last_parts(paths: set[str]) -> set[str]:
    return {path.rpartition(".")[2] for path in paths}


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("quantization", [None, NF4], ids=["16 bit", "nf4"])
def test_all_linear_does_not_unbalance_a_router_or_train_every_expert_unasked(
    family: str, quantization: Any
) -> None:
    paths = modules_adapted(model_of(family, quantization))
    shared = {"gate_proj", "up_proj", "down_proj"} if family == "qwen2_moe" else set()
    assert last_parts(paths) == ATTENTION | shared
    assert not [path for path in paths if ".experts" in path]


def test_all_linear_leaves_a_switch_router_and_its_experts_alone() -> None:
    paths = modules_adapted(model_of("switch_transformers"))
    assert last_parts(paths) == {"q", "k", "v", "o", "wi", "wo"}
    assert not [path for path in paths if "router" in path or "experts" in path]


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_get_an_adapter_where_they_are_named(family: str) -> None:
    only = replace(LORA, target_modules=(), target_parameters=STACKS)
    assert {path.partition(".experts")[2] for path in modules_adapted(model_of(family), only)} == {
        "",
        ".base_layer",
    }
    both = modules_adapted(model_of(family), replace(LORA, target_parameters=STACKS))
    assert last_parts(both) > ATTENTION
    assert any(path.endswith(".experts") for path in both)


def test_who_reads_the_notices_knows_that_experts_are_left_out() -> None:
    targets = adapter_targets(model_of("mixtral"), LORA)
    assert any("target_parameters" in notice for notice in targets.notices)
    named = replace(LORA, target_modules=("gate_proj", "q_proj"))
    assert adapter_targets(model_of("qwen2_moe"), named).notices
    assert not adapter_targets(model_of("llama"), LORA).notices


@pytest.mark.parametrize(("family", "names"), [("mamba", {"in_proj", "x_proj"}), ("mamba2", {"in_proj"})])
def test_all_linear_on_mamba_is_what_its_kernels_leave_trainable(family: str, names: set[str]) -> None:
    assert last_parts(modules_adapted(model_of(family))) == names


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mamba", "out_proj"),
        ("mamba", "conv1d"),
        ("mamba", "dt_proj"),
        ("mamba2", "out_proj"),
        ("mamba2", "backbone.layers.0.mixer.conv1d"),
        ("llama", "lm_head"),
    ],
)
def test_an_adapter_that_would_never_learn_is_refused_with_what_works(family: str, name: str) -> None:
    lora = replace(LORA, target_modules=("in_proj", name))
    with pytest.raises(InvalidSpec, match=r"use in_proj|modules_to_save"):
        adapter_targets(model_of(family), lora)


def test_an_adapter_on_x_proj_learns_although_the_fused_kernel_would_pass_it_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fused(states: torch.Tensor, *weights: Any, **options: Any) -> torch.Tensor:
        # Where mamba_ssm is installed this reads the bare weight of x_proj.
        return states.transpose(1, 2)[..., :32]

    monkeypatch.setattr(modeling_mamba, "mamba_inner_fn", fused)
    _, slopes = gradients(adapted(model_of("mamba"), LORA))
    assert any("x_proj" in name for name in slopes)
    monkeypatch.setattr(modeling_mamba, "mamba_inner_fn", fused)
    _, slopes = gradients(adapted(model_of("mamba"), replace(LORA, target_modules=("in_proj",))))
    assert modeling_mamba.mamba_inner_fn is fused


@pytest.mark.parametrize(
    ("change", "field"), [({"use_dora": True}, "lora.use_dora"), ({"lora_dropout": 0.1}, "lora.lora_dropout")]
)
def test_what_does_not_reach_experts_is_refused(change: Any, field: str) -> None:
    lora = replace(LORA, target_parameters=STACKS, **change)
    with pytest.raises(InvalidSpec) as caught:
        adapter_targets(model_of("mixtral"), lora)
    assert caught.value.field == field


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_memory_gets_the_same_adapter(family: str) -> None:
    config = config_of(family)
    with torch.device("meta"):
        empty = language_model_class(config)._from_config(config)
    assert adapter_targets(empty, LORA) == adapter_targets(model_of(family), LORA)


def test_an_image_classifier_keeps_its_new_head() -> None:
    config = AutoConfig.for_model(
        "vit", hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=16
    )
    model = AutoModelForImageClassification.from_config(config)
    names = modules_adapted(model)
    assert "query" not in last_parts(names)
    assert last_parts(names) > ATTENTION
    assert any("classifier.modules_to_save" in name for name in names)
