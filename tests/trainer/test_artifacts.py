"""Downloads of an artifact's files."""

import pytest

from tests.trainer.harness import Trainer, refused
from weighbridge.trainer.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def download(
    trainer: Trainer, name: str, path: str, offset: int = 0
) -> list[service_pb2.DownloadArtifactResponse]:
    request = service_pb2.DownloadArtifactRequest(name=name, path=path, offset=offset)
    return [response async for response in trainer.stub.DownloadArtifact(request)]


async def made(trainer: Trainer, name: str) -> resources_pb2.Run:
    await trainer.run(name, ["started"], ["succeed"])
    return await trainer.ended(name)


async def test_a_file_comes_in_pieces_after_its_digest(shared: Trainer, name: str) -> None:
    run = await made(shared, name)
    answers = await download(shared, name, "model.bin")
    assert answers[0].file == next(file for file in run.artifact.files if file.path == "model.bin")
    assert max(len(answer.data) for answer in answers) <= 1 << 20
    assert b"".join(answer.data for answer in answers) == b"m" * 3_000_000


async def test_a_download_goes_on_from_an_offset(shared: Trainer, name: str) -> None:
    await made(shared, name)
    rest = await download(shared, name, "model.bin", 2_999_990)
    assert b"".join(answer.data for answer in rest) == b"m" * 10
    assert (await download(shared, name, "model.bin", 3_000_000))[0].file.size_bytes == 3_000_000
    async with refused("INVALID_REQUEST"):
        await download(shared, name, "model.bin", 3_000_001)


@pytest.mark.parametrize("path", ["absent", "../run.json", "/etc/passwd"])
async def test_what_is_no_file_of_the_artifact_is_not_found(shared: Trainer, name: str, path: str) -> None:
    await made(shared, name)
    async with refused("NOT_FOUND"):
        await download(shared, name, path)


async def test_a_run_without_an_artifact_has_nothing_to_download(shared: Trainer, name: str) -> None:
    await shared.run(name, ["fail", "DIVERGED"])
    await shared.ended(name)
    async with refused("WRONG_STATE"):
        await download(shared, name, "model.bin")
