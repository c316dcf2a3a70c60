"""Downloads: whole or not at all, and nowhere but below the directory."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.client.fake_gateway import State, World
from weighbridge import exceptions as e
from weighbridge.client import Client
from weighbridge.gateway.v1 import service_pb2 as api


def give(world: World, files: dict[str, bytes]) -> None:
    world.job.state = State.STATE_SUCCEEDED
    for path, data in files.items():
        world.files[path] = data
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        world.job.artifact.files.add(path=path, digest=digest, size_bytes=len(data))


def everything(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def test_every_file_arrives(client: Client, world: World, tmp_path: Path) -> None:
    files = {"model.safetensors": os.urandom(50_000), "plots/curve.png": b"png", "empty": b""}
    give(world, files)
    seen: list[tuple[int, int]] = []
    into = client.jobs.download(
        "t1", tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert everything(into) == files
    assert seen[-1] == (50_003, 50_003)
    assert seen == sorted(seen)


def test_a_broken_download_goes_on_from_its_offset(client: Client, world: World, tmp_path: Path) -> None:
    give(world, {"model": os.urandom(50_000)})
    world.break_after_bytes = [20_000, 10_000]
    client.jobs.download("t1", tmp_path / "out")
    assert everything(tmp_path / "out") == world.files
    assert [request.offset for request in world.sent(api.DownloadArtifactRequest)] == [0, 20_000, 30_000]


def test_a_second_call_goes_on_from_what_the_first_left(client: Client, world: World, tmp_path: Path) -> None:
    give(world, {"done": b"done", "model": os.urandom(50_000)})
    world.break_after_bytes = [10_000, 20_000]

    def stop(done: int, total: int) -> None:
        if done >= 15_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.jobs.download("t1", tmp_path / "out", progress=stop)
    assert not (tmp_path / "out" / "model").exists()
    world.requests.clear()
    client.jobs.download("t1", tmp_path / "out")
    assert everything(tmp_path / "out") == world.files
    (request,) = world.sent(api.DownloadArtifactRequest)
    assert request.path == "model"
    assert request.offset > 0


def test_wrong_bytes_are_refused_and_not_kept(client: Client, world: World, tmp_path: Path) -> None:
    give(world, {"model": b"right"})
    world.files["model"] = b"wrong"
    with pytest.raises(e.CorruptDownload, match="model arrived with sha256:"):
        client.jobs.download("t1", tmp_path / "out")
    assert everything(tmp_path / "out") == {}


def test_more_bytes_than_stated_are_refused(client: Client, world: World, tmp_path: Path) -> None:
    give(world, {"model": b"right"})
    world.files["model"] = b"right" * 1000
    with pytest.raises(e.CorruptDownload):
        client.jobs.download("t1", tmp_path / "out")


def test_a_damaged_part_is_fetched_anew(client: Client, world: World, tmp_path: Path) -> None:
    give(world, {"model": os.urandom(5_000)})
    digest = world.job.artifact.files[0].digest
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".model.{digest[-12:]}.part").write_bytes(b"rubbish")
    client.jobs.download("t1", tmp_path / "out")
    assert everything(tmp_path / "out") == world.files


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/x", "a/../../x", "a//x", "./x", "", "a\\..\\x", "C:x", "a\0b", "..", "link/x"],
)
def test_a_path_that_leads_out_of_the_directory_is_refused(
    path: str, client: Client, world: World, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(tmp_path)
    give(world, {"good": b"1", path: b"2"})
    with pytest.raises(e.UnsafePath):
        client.jobs.download("t1", out)
    assert everything(out) == {}
    assert not (tmp_path / "x").exists()


def test_a_job_without_an_artifact_says_so(client: Client) -> None:
    with pytest.raises(e.WrongState, match="is PENDING and has no artifact"):
        client.jobs.download("t1")
