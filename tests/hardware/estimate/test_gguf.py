"""A real GGUF file: SmolLM2-135M-Instruct in 4 bit."""

import struct
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import InvalidModel
from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    DeviceKind,
    LoraOptions,
    ModelSource,
    ResolvedSpec,
    RowShape,
    Task,
    TextOptions,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.analytic import estimate
from services.hardware.estimate.resolve import resolve
from services.hardware.estimate.sources.reading import Places
from services.hardware.units import MIB
from tests.hardware.estimate.models import lay_gguf
from tests.hardware.samples import placed, training_spec

CHAT = DatasetSummary(
    name="projects/default/datasets/chat",
    digest=f"sha256:{'1' * 64}",
    size_bytes=100_000,
    format=DatasetFormat.JSONL,
    example_count=100,
    row_shape=RowShape.MESSAGES,
)


def gguf(path: str = "smol.gguf", **fields: Any) -> TrainingSpec:
    fields = {"task": Task.SFT, "placement": placed(DeviceKind.CPU), "lora": LoraOptions(r=8), **fields}
    return training_spec(model=ModelSource(gguf=path), dataset=CHAT.name, **fields)


def resolved(places: Places, spec: TrainingSpec) -> ResolvedSpec:
    return resolve(spec, CHAT, None, "default", places)[0]


def refusal(places: Places, spec: TrainingSpec) -> str:
    with pytest.raises(InvalidModel) as caught:
        resolved(places, spec)
    return str(caught.value)


def test_a_file_says_its_architecture_its_tokenizer_and_its_template(places: Places) -> None:
    file = lay_gguf(places.model_root, "lab/smol.gguf")
    model = resolved(places, gguf("lab/smol.gguf")).model
    assert (model.model_type, model.parameter_count) == ("llama", 134_515_008)
    assert model.location == "lab/smol.gguf"
    (weights,) = model.weight_files
    assert (weights.path, weights.size_bytes) == ("smol.gguf", file.stat().st_size)
    assert model.processor_files == model.weight_files
    # The rows are conversations, and the template that they need is the file's own.
    assert "<|im_start|>" in model.chat_template
    # It names what the file was made from, which nothing may be fetched from.
    assert "_model_name_or_path" not in model.config_json


@pytest.mark.parametrize(
    ("batch", "adapter", "measured_mib"),
    [(2, LoraOptions(r=8), 3052), (2, None, 3910)],
)
def test_the_estimate_stands_above_what_runs_of_it_have_used(
    places: Places, batch: int, adapter: LoraOptions | None, measured_mib: int
) -> None:
    # Peaks of the resident set of trl's trainer, two sequences of 256 tokens, nothing recomputed, fp32.
    lay_gguf(places.model_root)
    training = TrainingOptions(per_device_train_batch_size=batch, gradient_checkpointing=False)
    spec = gguf(lora=adapter, text=TextOptions(max_length=256), training=training)
    (placement,) = estimate(resolved(places, spec)).placements
    assert placement.host is not None
    assert measured_mib * MIB < placement.host.needed_bytes < 2 * measured_mib * MIB


def test_a_file_that_is_no_gguf_is_refused(places: Places) -> None:
    (places.model_root / "m.gguf").write_bytes(b"GGML" + bytes(100))
    assert "it is no GGUF file" in refusal(places, gguf("m.gguf"))


def test_a_file_that_ends_in_the_middle_is_refused(places: Places) -> None:
    whole = lay_gguf(places.model_root)
    (places.model_root / "half.gguf").write_bytes(whole.read_bytes()[:50_000])
    assert "it is no GGUF file" in refusal(places, gguf("half.gguf"))


def test_an_architecture_that_transformers_cannot_read_is_named(places: Places) -> None:
    write_metadata(places.model_root / "m.gguf", {"general.architecture": "clip"})
    reason = refusal(places, gguf("m.gguf"))
    assert "'clip'" in reason
    assert "use the original weights" in reason


def test_one_of_several_parts_is_refused(places: Places) -> None:
    write_metadata(places.model_root / "m.gguf", {"general.architecture": "llama", "split.count": 3})
    assert "it is one of 3 parts: join them with llama-gguf-split --merge" in refusal(places, gguf("m.gguf"))


def test_a_mistyped_file_is_answered_with_the_nearest(places: Places) -> None:
    lay_gguf(places.model_root, "lab/smol.gguf")
    assert "did you mean lab/smol.gguf?" in refusal(places, gguf("lab/smoll.gguf"))


def test_a_directory_with_nothing_but_a_gguf_file_says_how_to_name_it(places: Places) -> None:
    lay_gguf(places.model_root, "lab/smol.gguf")
    spec = training_spec(task=Task.SFT, model=ModelSource(path="lab"), dataset=CHAT.name)
    assert "name lab/smol.gguf as model.gguf" in refusal(places, spec)


def test_nothing_outside_the_model_root_is_read(places: Places, tmp_path: Path) -> None:
    lay_gguf(tmp_path, "secret.gguf")
    (places.model_root / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    for path in ("../secret.gguf", "link.gguf"):
        assert "leads out of the model root" in refusal(places, gguf(path))


def test_a_gguf_file_is_no_image_classifier(places: Places) -> None:
    lay_gguf(places.model_root)
    spec = training_spec(model=ModelSource(gguf="smol.gguf"))
    with pytest.raises(InvalidModel, match="choose the task sft or dpo"):
        resolve(spec, None, None, "default", places)


def write_metadata(path: Path, values: dict[str, str | int]) -> None:
    """Write a GGUF file of metadata alone."""
    data = b"GGUF" + struct.pack("<IQQ", 3, 0, len(values))
    for key, value in values.items():
        data += text(key)
        data += struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<I", 8) + text(value)
    path.write_bytes(data)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
