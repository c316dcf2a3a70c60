"""Every text recipe takes two training steps from its config alone, whatever the architecture."""

import resource
from dataclasses import replace

import pytest

from services.common.specs import (
    LoraOptions,
    QuantizationMethod,
    QuantizationOptions,
    Task,
    TextOptions,
    TrainingSpec,
)
from services.trainer.recipes import recipe_for
from services.trainer.recipes.trainer import RecipeTrainer
from tests.trainer.recipes.fake_steps import take_two_steps
from tests.trainer.text_specs import CAUSAL, TINY, lora_for, text_spec, tiny_config

pytestmark = pytest.mark.filterwarnings("ignore")

# Llama 3.1 8B's shapes: several times what the machines have that run this.
HUGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
}


def two_steps(spec: TrainingSpec, name: str, **changes: int) -> RecipeTrainer:
    recipe = recipe_for(spec.task)
    config = tiny_config(name, **changes)
    # Fake tensors know the grouped product in half precision only.
    config._experts_implementation = "batched_mm"
    return take_two_steps(lambda: recipe.build(spec, config), recipe.worst_batch(spec, config))


def all_trained(trainer: RecipeTrainer) -> bool:
    # Which of Switch's experts get a token is a question of values, which fake tensors have not.
    # Without initialisation its embedding is not tied to those that are used.
    named = [
        (name, p)
        for name, p in trainer.network.named_parameters()
        if ".expert_" not in name and name != "shared.weight"
    ]
    return all(p in trainer.optimizer.state for _, p in named if p.requires_grad)


@pytest.mark.parametrize("name", TINY)
def test_sft_of_every_weight(name: str) -> None:
    assert all_trained(two_steps(text_spec(Task.SFT), name))


@pytest.mark.parametrize("name", TINY)
def test_sft_of_an_adapter(name: str) -> None:
    assert all_trained(two_steps(text_spec(Task.SFT, lora=lora_for(name)), name))


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("adapter", [False, True])
def test_dpo(name: str, adapter: bool) -> None:
    assert all_trained(two_steps(text_spec(Task.DPO, lora=lora_for(name) if adapter else None), name))


@pytest.mark.parametrize("method", QuantizationMethod)
@pytest.mark.parametrize("name", ["llama", "mamba", "mixtral"])
def test_an_adapter_on_quantised_weights(name: str, method: QuantizationMethod) -> None:
    double = method is QuantizationMethod.NF4
    packed = QuantizationOptions(method=method, bnb_4bit_use_double_quant=double)
    assert all_trained(two_steps(text_spec(Task.SFT, lora=lora_for(name), quantization=packed), name))


def test_dpo_beside_a_second_model() -> None:
    spec = text_spec(Task.DPO)
    preference = replace(spec.preference, precompute_ref_log_probs=False)
    assert all_trained(two_steps(replace(spec, preference=preference), "llama"))


def test_packed_rows() -> None:
    spec = text_spec(Task.SFT, text=TextOptions(max_length=32, packing=True))
    assert all_trained(two_steps(spec, "llama"))


def test_smoothed_labels_with_all_their_logits() -> None:
    spec = text_spec(Task.SFT)
    training = replace(spec.training, label_smoothing_factor=0.1)
    assert all_trained(two_steps(replace(spec, training=training), "llama"))


@pytest.mark.parametrize("lora", [None, lora_for("llama", use_dora=True), lora_for("llama", use_rslora=True)])
def test_a_model_larger_than_memory_takes_none_of_it(lora: LoraOptions | None) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trainer = two_steps(text_spec(Task.SFT, lora=lora, text=TextOptions(max_length=4096)), "llama", **HUGE)
    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
    assert sum(parameter.numel() for parameter in trainer.network.parameters()) > 1_500_000_000
    assert grown_bytes < 1 << 30
