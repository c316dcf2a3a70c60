"""Frozen weights in 4 and 8 bit: they train, they are as small as they say, and nothing changes them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from torch import nn
from transformers.trainer_utils import validate_quantization_for_training

from benchmarks.moe_streaming import unquantised
from services.common.errors import InvalidSpec
from services.common.specs import LoraOptions, QuantizationOptions
from services.trainer.recipes.experts import STACKS, PackedExperts
from services.trainer.recipes.language_model import language_model_class
from services.trainer.recipes.quantization import quantize, verify_quantized
from tests.trainer.recipes.fake_steps import fake_tensors
from tests.trainer.recipes.tiny import (
    CPU,
    FAMILIES,
    INT8,
    LORA,
    MIXTURES,
    NF4,
    NF4_ONCE,
    adapted,
    batch,
    config_of,
    evaluate,
    gradients,
    losses,
    model_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")

DORA = replace(LORA, use_dora=True)
LINEARS = (Linear4bit, Linear8bitLt)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("quantization", "lora"),
    [(NF4, LORA), (NF4_ONCE, LORA), (NF4, DORA), (INT8, LORA)],
    ids=["nf4", "nf4-once", "nf4-dora", "int8"],
)
def test_an_evaluation_leaves_the_gradients_right_and_the_loss_falls(
    family: str, quantization: QuantizationOptions, lora: LoraOptions
) -> None:
    model = adapted(model_of(family, quantization), lora)
    _, before = gradients(model)
    evaluate(model)
    _, after = gradients(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    first, *_, last = losses(model, 6)
    assert last < 0.98 * first


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
def test_a_quantised_model_computes_nearly_what_it_did(
    family: str, quantization: QuantizationOptions
) -> None:
    whole, small = (evaluate(adapted(model_of(family, q), LORA)) for q in (None, quantization))
    assert abs(small - whole) < 0.08 * whole


def test_qlora_is_not_trained_on_weights_that_an_evaluation_repacked() -> None:
    model = model_of("llama", NF4)
    layers = [each for each in model.modules() if isinstance(each, Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_head_router_and_what_kernels_read_keep_their_format(family: str) -> None:
    model = model_of(family, NF4)
    small = {name for name, module in model.named_modules() if isinstance(module, LINEARS)}
    kept = ("lm_head", "gate", "router", "classifier", "shared_expert_gate", "x_proj", "dt_proj")
    assert small
    assert not [name for name in small if name.rpartition(".")[2] in kept]
    head = model.get_output_embeddings()
    assert type(head) is nn.Linear
    assert head.weight.dtype == torch.float32
    # In Mamba's mixers kernels read it; elsewhere it is a layer like any other.
    assert ("mamba" in family) == (not any(name.endswith(("o_proj", "c_proj", ".o", "wo")) for name in small))


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize(("quantization", "bits"), [(NF4, 4), (INT8, 8)], ids=["nf4", "int8"])
def test_experts_do_not_stay_in_16_bit_without_a_word(
    family: str, quantization: QuantizationOptions, bits: int
) -> None:
    model = model_of(
        family,
        quantization,
        dtype=torch.bfloat16,
        hidden_size=64,
        intermediate_size=64,
        moe_intermediate_size=64,
    )
    packed = [module for module in model.modules() if isinstance(module, PackedExperts)]
    numbers = sum(layout.parameters for module in packed for layout in module.layouts.values())
    taken_bytes = sum(module.store.size_bytes for module in packed)
    assert len(packed) == 2
    assert numbers == 2 * 4 * 3 * 64 * 64
    assert numbers * bits / 8 < taken_bytes < 1.07 * numbers * bits / 8
    assert not any("experts" in name and "shared" not in name for name, _ in model.named_parameters())


def test_a_model_that_is_not_in_4_bit_fails_before_it_trains() -> None:
    whole = model_of("mixtral")
    with pytest.raises(
        InvalidSpec, match=r"experts model\.layers\.0\.mlp\.experts are still in torch\.float32"
    ):
        verify_quantized(whole, NF4)
    with pytest.raises(InvalidSpec, match="takes 16,384 bytes for 16,384 numbers, more than"):
        verify_quantized(model_of("llama", INT8, hidden_size=128), NF4)


def test_experts_stacked_in_an_unknown_way_are_refused_and_not_left_in_16_bit() -> None:
    config = config_of("mixtral")
    model = language_model_class(config)._from_config(config)
    for module in model.modules():
        if hasattr(module, "is_transposed"):
            module.is_transposed = True
    with pytest.raises(InvalidSpec, match="leave quantization out"):
        quantize(model, NF4, device=CPU, compute_dtype=torch.float32)


def test_streaming_a_model_without_stacked_experts_is_refused() -> None:
    for family in ("llama", "switch_transformers"):
        with pytest.raises(InvalidSpec, match="no stacked experts"):
            model_of(family, NF4, offload_experts=True)


def test_int8_with_dora_is_refused_before_its_second_step_fails() -> None:
    with pytest.raises(InvalidSpec, match="int8"):
        adapted(model_of("llama", INT8), DORA)


@pytest.mark.parametrize(("quantization", "flag"), [(NF4, "is_loaded_in_4bit"), (INT8, "is_loaded_in_8bit")])
def test_transformers_trl_and_peft_know_that_it_is_quantised(
    quantization: QuantizationOptions, flag: str
) -> None:
    model = model_of("llama", quantization)
    assert getattr(model, flag)
    assert model.is_quantized
    with pytest.raises(ValueError, match="purely quantized"):
        validate_quantization_for_training(model)
    wrapped = adapted(model, LORA)
    validate_quantization_for_training(wrapped)
    assert getattr(wrapped, flag)
    kinds = {type(module).__name__ for name, module in wrapped.named_modules() if name.endswith("q_proj")}
    assert kinds <= {"Linear4bit", "Linear8bitLt"}
    # Written into the config it would follow the model into an artifact that is not quantised.
    assert not hasattr(model.config, "quantization_config")


def test_nothing_of_a_quantised_model_is_trained_but_its_adapter() -> None:
    model = adapted(model_of("mixtral", NF4), LORA)
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_a_model_whose_experts_are_packed_is_not_saved_without_them(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="not serializable"):
        model_of("mixtral", NF4).save_pretrained(str(tmp_path))


@pytest.mark.parametrize("family", ["llama", "mixtral", "mamba2"])
@pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
def test_it_trains_on_fake_tensors_too(family: str, quantization: QuantizationOptions) -> None:
    with fake_tensors():
        model = adapted(model_of(family, quantization, dtype=torch.bfloat16), LORA)
        for _ in range(2):
            model(**batch()).loss.backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", [NF4, NF4_ONCE, INT8], ids=["nf4", "nf4-once", "int8"])
def test_weights_are_not_unpacked_with_the_scales_of_others(
    family: str, quantization: QuantizationOptions
) -> None:
    # By the formats' own errors on normal numbers: 7 % of a deviation, and 0.7 %.
    limit = 0.013 if quantization is INT8 else 0.085
    original = dict(model_of(family).named_parameters())
    for name, weight in dict(unquantised(model_of(family, quantization)).named_parameters()).items():
        # GPT-2 keeps its matrices the other way round.
        before = original[name].T if family == "gpt2" and ".c_" in name else original[name]
        assert (weight - before).abs().mean() <= limit * before.std(), name


def test_what_a_cpu_would_unpack_wrongly_is_refused_in_4_bit_and_right_in_8() -> None:
    with pytest.raises(InvalidSpec, match="use int8"):
        model_of("llama", NF4, intermediate_size=48)
    model_of("llama", INT8, intermediate_size=48)


def test_a_stack_is_read_in_parts_as_it_is_read_whole() -> None:
    model = model_of("mixtral", NF4)
    experts = next(module for module in model.modules() if isinstance(module, PackedExperts))
    data = experts.store.take(backward=False)
    for stack in STACKS:
        layout = experts.layouts[stack]
        whole = layout.unpack(data[stack])
        assert torch.equal(whole[1:3], layout.unpack(data[stack], 1, 3))
