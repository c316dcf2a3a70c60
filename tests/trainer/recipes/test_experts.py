"""Packed experts, on the device or streamed: the numbers are those of a model with the same weights."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.moe_streaming import unquantised
from services.common.specs import LoraOptions, QuantizationOptions
from services.trainer.recipes import experts as experts_module
from services.trainer.recipes.experts import PackedExperts
from services.trainer.recipes.quantization import quantize
from services.trainer.recipes.streaming import ExpertStream, StreamedBytes
from tests.trainer.recipes.tiny import (
    INT8,
    LORA,
    MIXTURES,
    NF4,
    adapted,
    batch,
    evaluate,
    gradients,
    losses,
    model_of,
)

pytestmark = pytest.mark.filterwarnings("ignore")

ON_EXPERTS = replace(LORA, target_parameters=("experts.gate_up_proj", "experts.down_proj"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("family", MIXTURES)
def test_streamed_resident_and_unquantised_with_the_same_weights_are_equal_bit_by_bit(
    family: str, checkpointing: bool
) -> None:
    made = {
        "streamed": model_of(family, NF4, offload_experts=True, num_hidden_layers=4),
        "resident": model_of(family, NF4, num_hidden_layers=4),
        "unquantised": unquantised(model_of(family, NF4, num_hidden_layers=4)),
    }
    seen = {}
    for kind, model in made.items():
        wrapped = adapted(model, LORA, checkpointing=checkpointing)
        gradients(wrapped)
        evaluate(wrapped)
        seen[kind] = gradients(wrapped)
    loss, slopes = seen["unquantised"]
    for kind in ("resident", "streamed"):
        assert seen[kind][0] == loss
        assert seen[kind][1].keys() == slopes.keys()
        assert all(torch.equal(seen[kind][1][name], slopes[name]) for name in slopes)


@pytest.mark.parametrize("offload", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("quantization", [NF4, INT8], ids=["nf4", "int8"])
@pytest.mark.parametrize("family", MIXTURES)
def test_an_adapter_on_packed_experts_is_the_one_that_peft_computes(
    family: str, quantization: QuantizationOptions, offload: bool
) -> None:
    packed = adapted(model_of(family, quantization, offload_experts=offload), ON_EXPERTS, checkpointing=True)
    whole = adapted(unquantised(model_of(family, quantization)), ON_EXPERTS)
    (loss, slopes), (expected_loss, expected) = gradients(packed), gradients(whole)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert slopes.keys() == expected.keys()
    assert any("experts" in name for name in slopes)
    for name, slope in slopes.items():
        torch.testing.assert_close(slope, expected[name], rtol=1e-4, atol=1e-6)
    first, *_, last = losses(packed, 6)
    assert last < 0.98 * first


def test_an_adapter_on_packed_experts_is_off_where_it_is_off() -> None:
    model = adapted(model_of("mixtral", NF4), ON_EXPERTS)
    bare = model_of("mixtral", NF4)
    with torch.no_grad(), model.disable_adapter():
        off = model(**batch()).loss
    with torch.no_grad():
        assert off == bare.train()(**batch()).loss
    assert off != evaluate(model)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_whatever_computes_the_experts_otherwise_gets_the_same_loss(implementation: str) -> None:
    model = unquantised(model_of("mixtral", NF4))
    model.set_experts_implementation(implementation)
    loss, slopes = gradients(adapted(model, LORA))
    packed_loss, packed = gradients(adapted(model_of("mixtral", NF4), LORA))
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    for name, slope in slopes.items():
        torch.testing.assert_close(packed[name], slope, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("piece_bytes", [1, 10_000, 1 << 30])
@pytest.mark.parametrize("count", [4, 16])
def test_how_many_experts_are_unpacked_at_once_changes_nothing(
    piece_bytes: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients(adapted(model_of("olmoe", NF4, num_experts=count), LORA))
    monkeypatch.setattr(experts_module, "_PER_PIECE_BYTES", piece_bytes)
    parts = gradients(adapted(model_of("olmoe", NF4, num_experts=count), LORA))
    assert parts[0] == whole[0]
    assert all(torch.equal(parts[1][name], whole[1][name]) for name in whole[1])


def test_no_expert_matrix_is_kept_between_forward_and_backward() -> None:
    model = adapted(model_of("mixtral", NF4, hidden_size=64), LORA)
    experts = next(module for module in model.modules() if isinstance(module, PackedExperts))
    large = min(layout.parameters for layout in experts.layouts.values()) // 4
    kept: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        experts(torch.randn(2, 64, requires_grad=True), torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2))
    assert kept
    assert all(torch.Size(shape).numel() < large for shape in kept)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
def test_each_layer_is_on_its_way_before_it_is_needed(checkpointing: bool) -> None:
    model = adapted(
        model_of("mixtral", NF4, offload_experts=True, num_hidden_layers=6), LORA, checkpointing=checkpointing
    )
    stream = stream_of(model)
    for _ in range(3):
        gradients(model)
    # The first layer of the first step; the ways back and the later steps begin with what is still there.
    assert stream.waits == 1
    evaluate(model)
    evaluate(model)
    assert stream.waits == 2
    assert stream.device_bytes == 2 * stream.size_bytes(0)


def test_a_layer_that_nobody_foresaw_is_fetched() -> None:
    stream = ExpertStream(torch.device("cpu"))
    layers = [stream.add({"down_proj": torch.full((8,), index, dtype=torch.uint8)}) for index in range(7)]
    for index in (0, 5, 2, 6, 1, 1, 3, 0, 4):
        for backward in (False, True):
            assert layers[index].take(backward=backward)["down_proj"].tolist() == [index] * 8
            layers[index].used()
            layers[index].done(backward=backward)


def test_layers_of_several_sizes_share_the_room() -> None:
    stream = ExpertStream(torch.device("cpu"))
    layers = [stream.add({"down_proj": torch.arange(size, dtype=torch.uint8)}) for size in (3, 9, 5)]
    for layer, size in zip(layers, (3, 9, 5), strict=True):
        assert layer.take(backward=False)["down_proj"].tolist() == list(range(size))
        layer.done(backward=False)
    assert stream.device_bytes == 18


@pytest.mark.gpu
@pytest.mark.parametrize("lora", [LORA, ON_EXPERTS], ids=["attention", "experts"])
def test_streamed_and_resident_experts_are_equal_on_a_gpu(lora: LoraOptions) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    seen = []
    for offload in (False, True):
        device = torch.device("cuda")
        model = model_of("mixtral", dtype=torch.bfloat16, num_hidden_layers=6, hidden_size=256)
        quantize(model, NF4, device=device, compute_dtype=torch.bfloat16, offload_experts=offload)
        wrapped = adapted(model, lora, checkpointing=True).to(device)
        inputs = {name: tensor.to(device) for name, tensor in batch().items()}
        losses_seen = []
        for _ in range(4):
            wrapped.zero_grad()
            loss = wrapped(**inputs).loss
            loss.backward()
            losses_seen.append(loss.item())
        slopes = {
            name: each.grad.clone() for name, each in wrapped.named_parameters() if each.grad is not None
        }
        seen.append((losses_seen, slopes))
    (resident, expected), (streamed, slopes) = seen
    assert streamed == pytest.approx(resident, rel=1e-3)
    for name, slope in slopes.items():
        cosine = nn.functional.cosine_similarity(
            slope.flatten().float(), expected[name].flatten().float(), dim=0
        )
        assert cosine > 0.999


def stream_of(model: nn.Module) -> ExpertStream:
    """Return the stream that a model's experts come from."""
    store = next(module.store for module in model.modules() if isinstance(module, PackedExperts))
    assert isinstance(store, StreamedBytes)
    return store.stream
