"""Models of a hub: a job downloads what its node lacks and tells how far it is, and finds what was pulled."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from tests.e2e.conftest import MakePlatform
from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from tests.trainer.fake_hub import COMMIT, REPOSITORY, FakeHub, serving
from weighbridge import exceptions as e
from weighbridge.gateway.v1.resources_pb2 import ConditionType, JobEvent
from weighbridge.jobs import Job

CONFIG = tiny_vit()["model"]["config"]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a Vision Transformer's backbone; a new head goes on it."""
    import torch
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    options = {key: value for key, value in CONFIG.items() if key != "model_type"}
    network = ViTModel(ViTConfig(**options), add_pooling_layer=False)
    tensors = {f"vit.{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)
    return {"config.json": json.dumps(CONFIG).encode(), WEIGHTS: (folder / WEIGHTS).read_bytes()}


@pytest.fixture(scope="module")
def hub(model: dict[str, bytes]) -> Iterator[FakeHub]:
    with serving(FakeHub(model)) as served:
        yield served


@pytest.fixture(scope="module")
def platform(make_platform: MakePlatform, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> Platform:
    cache = tmp_path_factory.mktemp("cache") / "hub"
    return make_platform(HF_ENDPOINT=hub.endpoint, HF_HUB_CACHE=str(cache), HF_HUB_OFFLINE="0")


@pytest.fixture(autouse=True)
def empty(platform: Platform, hub: FakeHub) -> None:
    """Nothing is in the node's cache."""
    if platform.client.models.list().models:
        list(platform.client.models.delete(REPOSITORY))
    hub.gets.clear()


def train(platform: Platform, max_steps: int) -> Job:
    training = {"max_steps": max_steps, "per_device_train_batch_size": 8, "logging_steps": 2}
    return platform.client.train(tiny_vit(model={"hub": REPOSITORY}, training=training))


def fetched(hub: FakeHub) -> list[str]:
    return [name for name, _ in hub.gets if name == WEIGHTS]


def test_weights_that_a_job_must_download_first_are_a_condition_with_progress(
    platform: Platform, hub: FakeHub, model: dict[str, bytes]
) -> None:
    events: list[JobEvent] = []
    train(platform, max_steps=2).wait(on_event=events.append)
    told = [
        (condition.done_bytes, condition.total_bytes)
        for event in events
        for condition in event.job.conditions
        if condition.type == ConditionType.CONDITION_TYPE_DOWNLOADING_WEIGHTS
    ]
    size = len(model[WEIGHTS])
    assert (0, size) in told
    assert (size, size) in told
    assert fetched(hub) == [WEIGHTS]


def test_a_pulled_model_is_not_downloaded_again_and_not_deleted_from_under_its_job(
    platform: Platform, hub: FakeHub
) -> None:
    models = platform.client.models
    (pulled,) = models.pull(REPOSITORY)
    assert pulled.model.revision == COMMIT
    job = train(platform, max_steps=100_000)
    eventually(lambda: job.refresh().state == "RUNNING")
    assert fetched(hub) == [WEIGHTS]
    assert using(platform) == [f"runs/{job.id}-1"]
    with pytest.raises(e.InUse, match=job.id):
        list(models.delete(REPOSITORY))
    job.cancel()
    eventually(lambda: job.refresh().done)
    eventually(lambda: not using(platform))
    assert [each.model.repository for each in models.delete(REPOSITORY)] == [REPOSITORY]
    assert not models.list().models


def test_a_secret_reaches_the_hub_and_no_log(platform: Platform, hub: FakeHub) -> None:
    secrets = platform.home.root / "secrets" / "default"
    secrets.mkdir(parents=True, exist_ok=True)
    (secrets / "hub-token").write_text("hf_secret\n")
    hub.tokens.clear()
    list(platform.client.models.pull(REPOSITORY, token_secret="hub-token"))
    assert hub.tokens == {"Bearer hf_secret"}
    logs = [path.read_text(errors="replace") for path in _logs(platform.home.root)]
    assert not any("hf_secret" in text for text in logs)


def _logs(root: Path) -> list[Path]:
    return list(root.rglob("*.log"))


def using(platform: Platform) -> list[Any]:
    return [run for each in platform.client.models.list().models for run in each.model.runs]
