"""Weights of every kind of architecture survive checkpoints and artifacts, whatever names files give them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedConfig

from services.common.errors import InvalidModel
from services.common.specs import CheckpointOptions, EvaluationOptions
from services.trainer.recipes import Weights
from services.trainer.recipes.image_classification import RECIPE
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.work.checkpoints import read_weights_into, write_weights
from services.trainer.work.errors import BadCheckpoint, Diverged
from tests.trainer.specs import LORA, SPEC, TRAINING, config_json

pytestmark = pytest.mark.filterwarnings("ignore")

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {**_SMALL, "intermediate_size": 64, "patch_size": 8},
    "deit": {**_SMALL, "intermediate_size": 64, "patch_size": 8},
    "beit": {**_SMALL, "intermediate_size": 64, "patch_size": 8},
    "dinov2": {**_SMALL, "patch_size": 8},
    "swin": {"image_size": 32, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "convnext": {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"},
}
LABELS, OTHERS = ("bar", "disc", "ring"), ("cone", "cube", "star")


def config(kind: str, labels: tuple[str, ...] = LABELS) -> PreTrainedConfig:
    named = {key: json.loads(config_json(labels))[key] for key in ("id2label", "label2id")}
    return AutoConfig.for_model(kind, **ARCHITECTURES[kind], **named)


def build(kind: str, lora: bool = False, weights: Weights | None = None, seed: int = 1) -> RecipeTrainer:
    labels = OTHERS if weights is not None and weights.labels == LABELS else LABELS
    image = replace(SPEC.image, image_size=32) if SPEC.image else None
    spec = replace(SPEC, image=image, lora=LORA if lora else None, seed=seed)
    return RECIPE.build(spec, config(kind, labels), weights)


def values(trainer: RecipeTrainer) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in trainer.network.state_dict().items()}


def scramble(trainer: RecipeTrainer) -> None:
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter))


# ResNet has no linear layer but its head, and nothing there for an adapter.
ADAPTED = [kind for kind in ARCHITECTURES if kind != "resnet"]


@pytest.mark.parametrize(
    ("kind", "lora"), [*((kind, False) for kind in ARCHITECTURES), *((kind, True) for kind in ADAPTED)]
)
def test_checkpoint_gives_back_every_weight(kind: str, lora: bool, tmp_path: Path) -> None:
    trainer = build(kind, lora)
    scramble(trainer)
    before = values(trainer)
    write_weights(trainer.network, tmp_path, step=1)
    scramble(trainer)
    read_weights_into(trainer.network, tmp_path, step=1)
    after = values(trainer)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_accumulated_batches_do_not_make_the_loss_and_its_gradients_as_many_times_larger(kind: str) -> None:
    torch.set_num_threads(1)
    assert first_loss(kind, batch=2, accumulated=4) == pytest.approx(first_loss(kind, 8, 1), rel=0.3)


def first_loss(kind: str, batch: int, accumulated: int) -> float:
    training = replace(
        TRAINING,
        num_train_epochs=None,
        max_steps=1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulated,
    )
    image = replace(SPEC.image, image_size=32) if SPEC.image else None
    trainer = RECIPE.build(replace(SPEC, image=image, training=training), config(kind))
    draw = torch.Generator().manual_seed(3)
    examples: Any = [
        {"pixel_values": torch.rand((3, 32, 32), generator=draw), "labels": number % 3} for number in range(8)
    ]
    trainer.attach(examples, None, EvaluationOptions(), CheckpointOptions())
    trainer.train()
    return float(trainer.state.log_history[0]["loss"])


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_artifact_gives_its_backbone_to_another_job_and_no_head(kind: str, tmp_path: Path) -> None:
    first = build(kind)
    scramble(first)
    first.network.save_pretrained(str(tmp_path))
    weights = Weights(tensors=load_file(tmp_path / "model.safetensors"), labels=LABELS, complete=True)

    second = build(kind, weights=weights, seed=2)

    before, after = values(first), values(second)
    same = {name for name in before if torch.equal(before[name], after[name])}
    head = {name for name in before if name.startswith("classifier.")}
    assert head
    assert set(before) - same <= head
    assert not any(name in same for name in head if name.endswith("weight"))
    assert any("a new head of 3 labels" in notice for notice in second.notices)


def test_what_a_hubs_file_holds_beyond_a_classifier_is_told_not_refused(tmp_path: Path) -> None:
    build("vit").network.save_pretrained(str(tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {**tensors, "decoder.weight": torch.zeros(2)}
    # The hub's labels are its own; what the decoder is for, nobody asked.
    trainer = build("vit", weights=Weights(tensors=extra, labels=("a", "b"), complete=False))
    assert any("a new head" in notice for notice in trainer.notices)
    missing = {name: tensor for name, tensor in tensors.items() if "layernorm_before" not in name}
    with pytest.raises(InvalidModel, match=r"missing vit\.layers"):
        build("vit", weights=Weights(tensors=missing, labels=("a", "b"), complete=False))


def test_weights_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    trainer = build("vit")
    next(iter(trainer.network.parameters())).data.fill_(float("nan"))
    with pytest.raises(Diverged):
        write_weights(trainer.network, tmp_path / "weights", step=5)
    assert not (tmp_path / "weights").exists()


def test_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_weights(build("vit", lora=True).network, tmp_path, step=1)
    image = replace(SPEC.image, image_size=32) if SPEC.image else None
    other = RECIPE.build(replace(SPEC, image=image, lora=replace(LORA, r=2)), config("vit"))
    with pytest.raises(BadCheckpoint, match="another shape"):
        read_weights_into(other.network, tmp_path, step=1)
