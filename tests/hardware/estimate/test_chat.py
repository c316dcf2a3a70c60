"""What a chat is estimated to need: the files' own sizes, and a context that the caller chooses."""

from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import InvalidModel, InvalidRequest
from services.common.specs import DeviceKind, FileEntry, FileTree, PlacementOptions, ResolvedSpec
from services.hardware.estimate.chat import ChatQuestion, weigh_chat
from services.hardware.units import GIB, MIB
from services.hardware.weighing import MemoryPartKind
from tests.trainer.chats.artifacts import SHAPE, resolved_job

LLAMA = {
    "model_type": "llama",
    **SHAPE,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
}


def job(config: dict[str, Any] = LLAMA, parameters: int = 8_000_000_000, **fields: Any) -> ResolvedSpec:
    resolved = resolved_job(config)
    return replace(
        resolved,
        model=replace(resolved.model, parameter_count=parameters),
        spec=replace(resolved.spec, **fields),
    )


def tree(**sizes: int) -> FileTree:
    named = {name.replace("__", "/").replace("_", "."): size for name, size in sizes.items()}
    files = tuple(
        FileEntry(path=path, digest=f"sha256:{'1' * 64}", size_bytes=size) for path, size in named.items()
    )
    return FileTree(digest=f"sha256:{'2' * 64}", size_bytes=sum(sizes.values()), files=files)


WHOLE = tree(config_json=700, model_safetensors=16 * GIB, adapter__adapter_safetensors=GIB)


def parts(resolved: ResolvedSpec, **asked: Any) -> dict[MemoryPartKind, int]:
    _, estimate = weigh_chat(resolved, ChatQuestion(artifact=WHOLE, **asked))
    assert estimate.placements[0].host is not None
    return {part.kind: part.size_bytes for part in estimate.placements[0].host.parts}


def test_weights_are_the_files_at_the_root_and_keys_and_values_are_counted() -> None:
    found = parts(job(), context_tokens=8192)
    assert found[MemoryPartKind.WEIGHTS] == 16 * GIB
    # 8 heads of 128, keys and values, in the 16 bits that the weights have; one of 32 layers twice.
    assert found[MemoryPartKind.CACHE] == 2 * 8192 * 2 * 33 * 8 * 128


def test_a_longer_context_needs_more() -> None:
    short, long = parts(job(), context_tokens=1024), parts(job(), context_tokens=131_072)
    assert long[MemoryPartKind.CACHE] == 128 * short[MemoryPartKind.CACHE]
    assert long[MemoryPartKind.ACTIVATIONS] > 128 * short[MemoryPartKind.ACTIVATIONS]


def test_the_spec_says_what_is_loaded_and_for_how_much() -> None:
    trained = job(placement=PlacementOptions(device=DeviceKind.CPU, node="nodes/lab-1", shared=True))
    chat, estimate = weigh_chat(trained, ChatQuestion(artifact=WHOLE))
    assert chat.model.artifact_digest == WHOLE.digest
    assert [file.path for file in chat.model.weight_files] == ["model.safetensors"]
    assert chat.spec.text is not None
    assert chat.spec.text.max_length == 4096, "the default"
    # Not pinned to the node that trained it, and without what only training needs.
    assert chat.spec.placement == PlacementOptions(device=DeviceKind.CPU, shared=True)
    assert (chat.spec.lora, chat.spec.training, chat.spec.quantization) == (None, None, None)
    assert [placement.device for placement in estimate.placements] == [DeviceKind.CPU]
    assert estimate.disk_bytes == WHOLE.size_bytes
    assert "shorter context" in estimate.remedy


def test_a_caller_may_choose_another_device() -> None:
    _, estimate = weigh_chat(job(), ChatQuestion(artifact=WHOLE, device=DeviceKind.CUDA))
    (placement,) = estimate.placements
    assert (placement.device, placement.device_count) == (DeviceKind.CUDA, 1)
    assert placement.gpu is not None
    assert placement.gpu.needed_bytes > 16 * GIB
    assert placement.host is not None


def test_a_small_models_context_is_its_own() -> None:
    chat, _ = weigh_chat(job({"model_type": "llama", **SHAPE}, 50_000), ChatQuestion(artifact=WHOLE))
    assert chat.spec.text is not None
    assert chat.spec.text.max_length == 256


def test_a_context_beyond_the_model_is_refused_with_its_limit() -> None:
    with pytest.raises(InvalidRequest) as caught:
        weigh_chat(job(), ChatQuestion(artifact=WHOLE, context_tokens=131_073))
    assert "131072 that the model can hold" in str(caught.value)


@pytest.mark.parametrize(
    "artifact",
    [tree(config_json=1), tree(model_safetensors=1), tree(config_json=1, adapter__a_safetensors=1)],
)
def test_an_artifact_that_is_no_whole_model_is_refused(artifact: FileTree) -> None:
    with pytest.raises(InvalidModel):
        weigh_chat(job(), ChatQuestion(artifact=artifact))


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mamba", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300},
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 300},
        {"model_type": "mixtral", **SHAPE},
    ],
    ids=lambda config: str(config["model_type"]),
)
def test_other_architectures_are_weighed_too(config: dict[str, Any]) -> None:
    artifact = tree(config_json=1, model_safetensors=MIB)
    _, estimate = weigh_chat(job(config, 100_000), ChatQuestion(artifact=artifact))
    assert estimate.placements[0].host is not None
    assert GIB < estimate.placements[0].host.needed_bytes < 4 * GIB
