"""Classifying pictures: a child does it, one call at a time, and nothing goes on for nobody."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import psutil
import pytest
import pytest_asyncio

from services.common.errors import Code
from tests.trainer.harness import Trainer, eventually, refused, trainer_at
from weighbridge.trainer.v1 import service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
COMMAND = json.dumps([sys.executable, str(Path(__file__).with_name("scripted_classifier.py"))])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def classifier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    async with trainer_at(tmp_path_factory.mktemp("classifier")) as trainer:
        await trainer.restart(WEIGHBRIDGE_CLASSIFY_COMMAND=COMMAND)
        yield trainer


def artifact(trainer: Trainer, behaviour: str) -> str:
    directory = trainer.directory / behaviour
    directory.mkdir(exist_ok=True)
    (directory / "behaviour").write_text(behaviour)
    return trainer.store.put_tree(directory).digest


async def classify(trainer: Trainer, digest: str, top_k: int = 0) -> list[list[str]]:
    request = service_pb2.ClassifyImagesRequest(artifact_digest=digest, images=[b"cat", b"dog"], top_k=top_k)
    answer = await trainer.stub.ClassifyImages(request)
    return [[score.label for score in each.scores] for each in answer.classifications]


async def test_pictures_are_classified_in_their_order(classifier: Trainer) -> None:
    digest = artifact(classifier, "answer")
    assert await classify(classifier, digest) == [["cat-0", "cat-1", "cat-2"], ["dog-0", "dog-1", "dog-2"]]
    assert await classify(classifier, digest, top_k=1) == [["cat-0"], ["dog-0"]]


async def test_a_picture_that_is_none_is_named(classifier: Trainer) -> None:
    async with refused("INVALID_DATASET", Code.INVALID_ARGUMENT) as refusal:
        await classify(classifier, artifact(classifier, "refuse"))
    assert "images[1]" in refusal.message


async def test_an_unknown_artifact_is_not_found(classifier: Trainer) -> None:
    async with refused("NOT_FOUND"):
        await classify(classifier, "sha256:" + "0" * 64)


async def test_a_child_that_dies_is_a_defect(classifier: Trainer) -> None:
    async with refused("INTERNAL"):
        await classify(classifier, artifact(classifier, "die"))


async def test_a_caller_that_leaves_takes_the_child_along(classifier: Trainer) -> None:
    digest = artifact(classifier, "hang")
    call = asyncio.create_task(classify(classifier, digest))
    cached = classifier.state / "cache" / "trees" / digest.removeprefix("sha256:") / "pid"
    await eventually(lambda: cached.exists() and cached.read_text())
    child = int(cached.read_text())
    call.cancel()
    await eventually(lambda: not psutil.pid_exists(child))
    # And the next one has its turn.
    assert await classify(classifier, artifact(classifier, "answer"), top_k=1) == [["cat-0"], ["dog-0"]]


async def test_a_child_that_takes_too_long_is_ended(classifier: Trainer) -> None:
    await classifier.restart(WEIGHBRIDGE_CLASSIFY_TIMEOUT="0.5")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await classify(classifier, artifact(classifier, "hang"))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
