"""The node's cache of the hub: filled ahead of jobs with what is safe, resumed, listed, emptied with care."""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from services.common.errors import Code
from services.common.spec_wire import serialize_resolved
from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    ModelSource,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TrainingSpec,
)
from tests.trainer.fake_hub import COMMIT, REPOSITORY, FakeHub, serving
from tests.trainer.fake_node import approval
from tests.trainer.harness import Trainer, eventually, refused, trainer_at
from weighbridge.trainer.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The hub's library writes 10 MiB at a time: the file's beginning is on the disk before its end has come.
WEIGHTS = os.urandom(11 << 20)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle",
    "README.md": b"# tiny",
    "onnx/model.safetensors": b"another variant",
    "adapter_model.safetensors": b"beside",
}
WANTED = {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"}


@pytest.fixture(scope="module")
def served() -> Iterator[FakeHub]:
    with serving(FakeHub(dict(FILES))) as hub:
        yield hub


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, served: FakeHub) -> AsyncIterator[Trainer]:
    async with trainer_at(tmp_path_factory.mktemp("models")) as trainer:
        await trainer.restart(HF_ENDPOINT=served.endpoint, HF_HUB_CACHE=str(cache(trainer)))
        yield trainer


@pytest.fixture
def hub(served: FakeHub) -> FakeHub:
    """The hub as it was when the module's tests began."""
    fresh = vars(FakeHub(dict(FILES), endpoint=served.endpoint))
    # A test may have replaced a method too.
    vars(served).clear()
    vars(served).update(fresh)
    return served


@pytest.fixture
def node(shared: Trainer, hub: FakeHub) -> Trainer:
    """A trainer with an empty cache."""
    shutil.rmtree(cache(shared), ignore_errors=True)
    return shared


def cache(trainer: Trainer) -> Path:
    return trainer.directory / "hub"


def folder(trainer: Trainer) -> Path:
    return cache(trainer) / f"models--{REPOSITORY.replace('/', '--')}"


def snapshot(trainer: Trainer) -> dict[str, bytes]:
    root = folder(trainer) / "snapshots" / COMMIT
    return {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def request(**fields: str) -> service_pb2.PullModelRequest:
    return service_pb2.PullModelRequest(repository=REPOSITORY, **fields)


async def pull(trainer: Trainer, **fields: str) -> list[service_pb2.PullModelResponse]:
    return [response async for response in trainer.stub.PullModel(request(**fields))]


async def listed(trainer: Trainer) -> list[resources_pb2.CachedModel]:
    return list((await trainer.stub.ListModels(service_pb2.ListModelsRequest())).models)


async def delete(trainer: Trainer, revision: str = "") -> service_pb2.DeleteModelResponse:
    asked = service_pb2.DeleteModelRequest(repository=REPOSITORY, revision=revision)
    answer: service_pb2.DeleteModelResponse = await trainer.stub.DeleteModel(asked)
    return answer


async def test_a_model_is_pulled_at_its_commit_with_progress(node: Trainer, hub: FakeHub) -> None:
    told = await pull(node)
    size = sum(len(FILES[name]) for name in WANTED)
    done = [each.progress.done_bytes for each in told if each.HasField("progress")]
    assert done == sorted(done)
    assert (done[-1], told[-2].progress.total_bytes, told[-2].progress.revision) == (size, size, COMMIT)
    model = told[-1].model
    assert (model.repository, model.revision) == (REPOSITORY, COMMIT)
    assert (model.size_bytes, model.file_count) == (size, len(WANTED))
    assert snapshot(node)["model.safetensors"] == WEIGHTS
    # No token was named, so none is sent, whatever lies about on the machine.
    assert hub.tokens == {None}


async def test_neither_pickles_nor_what_no_run_reads_is_fetched(node: Trainer) -> None:
    await pull(node)
    assert set(snapshot(node)) == WANTED


async def test_what_is_here_is_not_fetched_again(node: Trainer, hub: FakeHub) -> None:
    await pull(node)
    hub.gets.clear()
    told = await pull(node, revision=COMMIT)
    assert hub.gets == []
    assert told[-2].progress.done_bytes == told[-2].progress.total_bytes > 0


async def test_a_caller_that_leaves_ends_the_download_and_the_next_goes_on_from_there(
    node: Trainer, hub: FakeHub
) -> None:
    hub.stall_after_bytes = len(WEIGHTS) - 1
    call = node.stub.PullModel(request())
    reading = asyncio.create_task(_exhaust(call))
    await eventually(hub.stalled.is_set)
    await eventually(lambda: sum(path.stat().st_size for path in partials(node)))
    await eventually(lambda: children(node))
    call.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await eventually(lambda: not children(node))
    kept = sum(path.stat().st_size for path in partials(node))
    assert 0 < kept < len(WEIGHTS)
    hub.stall_after_bytes = None
    hub.gets.clear()
    await pull(node)
    assert hub.gets == [("model.safetensors", f"bytes={kept}-")]
    assert snapshot(node)["model.safetensors"] == WEIGHTS
    assert not partials(node)


async def test_a_service_that_is_killed_takes_its_download_along(node: Trainer, hub: FakeHub) -> None:
    hub.stall_after_bytes = 1 << 20
    reading = asyncio.create_task(_exhaust(node.stub.PullModel(request())))
    await eventually(hub.stalled.is_set)
    (child,) = children(node)
    await node.kill()
    await asyncio.gather(reading, return_exceptions=True)
    await eventually(lambda: not works(child))
    hub.stall_after_bytes = None
    await node.start()
    await pull(node)
    assert set(snapshot(node)) == WANTED


async def test_two_callers_of_one_model_fetch_it_once(node: Trainer, hub: FakeHub) -> None:
    both = await asyncio.gather(pull(node), pull(node))
    assert [told[-1].model.revision for told in both] == [COMMIT, COMMIT]
    assert sorted(name for name, _ in hub.gets) == sorted(WANTED)


async def test_a_rest_that_does_not_fit_its_beginning_is_fetched_whole(node: Trainer) -> None:
    part = folder(node) / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.resumed.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"of another file, after a power failure")
    await pull(node)
    assert snapshot(node)["model.safetensors"] == WEIGHTS


async def test_a_full_disk_is_refused_with_figures_before_the_first_byte(node: Trainer, hub: FakeHub) -> None:
    enormous = 1 << 60
    listing = hub.siblings()
    next(each for each in listing if each["rfilename"] == "model.safetensors")["size"] = enormous
    hub.siblings = lambda: listing  # type: ignore[method-assign]
    async with refused("INSUFFICIENT_DISK", Code.FAILED_PRECONDITION) as refusal:
        await pull(node)
    assert int(refusal.metadata["needed_bytes"]) == enormous + sum(
        len(FILES[name]) for name in WANTED - {"model.safetensors"}
    )
    assert 0 < int(refusal.metadata["free_bytes"]) < enormous
    assert "GiB more on the node's disk" in refusal.message
    assert hub.gets == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"modeling_tiny.py": b"import os"}, "modeling_tiny.py is code"),
        ({"model.safetensors": None}, "no weights in safetensors"),
        ({"config.json": None}, "no config.json"),
    ],
)
async def test_a_repository_that_is_not_safe_to_read_is_refused(
    change: dict[str, bytes | None], reason: str, node: Trainer, hub: FakeHub
) -> None:
    hub.files = {name: data for name, data in (FILES | change).items() if data is not None}
    async with refused("INVALID_MODEL") as refusal:
        await pull(node)
    assert reason in refusal.message
    assert hub.gets == []


async def test_what_the_hub_refuses_is_told(node: Trainer, hub: FakeHub) -> None:
    async with refused("INVALID_MODEL") as refusal:
        await pull(node, revision="v9")
    assert "no revision 'v9'" in refusal.message
    hub.token = "hf_secret"
    async with refused("INVALID_MODEL") as refusal:
        await pull(node)
    assert "name a secret with a token" in refusal.message
    hub.broken = True
    async with refused("PEER_UNAVAILABLE", Code.UNAVAILABLE) as refusal:
        await pull(node)
    assert f"the model hub at {hub.endpoint} cannot be reached" in refusal.message


async def test_the_token_is_the_projects_secret(node: Trainer, hub: FakeHub) -> None:
    hub.token = "hf_secret"
    node.keep_secret("hub-token", "hf_secret\n")
    await pull(node, project="default", token_secret="hub-token")
    assert hub.tokens == {"Bearer hf_secret"}
    async with refused("INVALID_REQUEST") as refusal:
        await pull(node, project="other", token_secret="hub-token")
    assert "project other has no secret hub-token" in refusal.message


async def test_models_are_listed_with_the_runs_that_train_on_them(node: Trainer, name: str) -> None:
    assert await listed(node) == []
    await pull(node)
    spec = on_hub(node)
    await node.start_run(name, spec, approval(name, spec))
    (model,) = await listed(node)
    assert (model.repository, model.revision, list(model.runs)) == (REPOSITORY, COMMIT, [name])
    assert model.last_used_time.seconds > 0
    async with refused("IN_USE", Code.FAILED_PRECONDITION) as refusal:
        await delete(node)
    assert refusal.metadata == {"resource": f"{REPOSITORY}@{COMMIT}", "user": name}
    await node.cancel(name, 0)
    await node.ended(name)
    assert (await delete(node, COMMIT[:8])).freed_bytes == model.size_bytes
    assert await listed(node) == []
    assert not folder(node).exists()


async def test_a_model_that_is_not_here_cannot_be_deleted(node: Trainer) -> None:
    async with refused("NOT_FOUND"):
        await delete(node)
    await pull(node)
    async with refused("NOT_FOUND"):
        await delete(node, "ffffff")


async def test_a_model_that_is_being_pulled_is_not_deleted(node: Trainer, hub: FakeHub) -> None:
    hub.stall_after_bytes = 1 << 20
    call = node.stub.PullModel(request())
    reading = asyncio.create_task(_exhaust(call))
    await eventually(hub.stalled.is_set)
    async with refused("IN_USE") as refusal:
        await delete(node)
    assert "a download that is under way" in refusal.message
    hub.gone_on.set()
    await reading
    await delete(node)


async def _exhaust(call: Any) -> None:
    async for _ in call:
        pass


def partials(trainer: Trainer) -> list[Path]:
    return list((folder(trainer) / "blobs").glob("*.incomplete"))


def children(trainer: Trainer) -> list[psutil.Process]:
    assert trainer.process is not None
    found = psutil.Process(trainer.process.process.pid).children()
    return [child for child in found if "services.trainer.models.child" in " ".join(child.cmdline())]


def works(process: psutil.Process) -> bool:
    # Whoever adopts it may be slow to bury it.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def on_hub(trainer: Trainer) -> bytes:
    """Return the bytes of a spec on the hub's model whose worker waits for ever."""
    data = json.dumps([["wait_for", "the end"]]).encode()
    spec = TrainingSpec(
        task=Task.IMAGE_CLASSIFICATION,
        model=ModelSource(hub=REPOSITORY),
        dataset="projects/default/datasets/script",
    )
    dataset = DatasetSummary(
        name=spec.dataset,
        digest=trainer.store.put_bytes(data),
        size_bytes=len(data),
        format=DatasetFormat.IMAGE_FOLDER_ZIP,
        example_count=1,
    )
    model = ResolvedModel(config_json="{}", model_type="vit", revision=COMMIT, location=REPOSITORY)
    return serialize_resolved(ResolvedSpec(spec=spec, model=model, dataset=dataset, resolver_version="1"))
