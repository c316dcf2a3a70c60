"""Uploads over a connection that breaks."""

import hashlib
import os
import threading
from pathlib import Path

import grpc
import pytest

from tests.client.fake_gateway import FakeGateway, Refusal, World
from weighbridge import exceptions as e
from weighbridge.client import Client
from weighbridge.gateway.v1 import service_pb2 as api

MIB = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "digits.zip"
    path.write_bytes(os.urandom(5 * MIB + 123))
    return path


def remembered(home: Path) -> list[Path]:
    return list((home / "uploads").glob("*"))


def test_a_file_becomes_a_data_set_of_the_same_bytes(
    client: Client, world: World, file: Path, home: Path
) -> None:
    seen: list[tuple[int, int]] = []
    dataset = client.datasets.upload(file, "digits", progress=lambda done, total: seen.append((done, total)))
    assert dataset.name == "projects/default/datasets/digits"
    assert dataset.summary.digest == f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    assert seen[0] == (0, file.stat().st_size)
    assert seen[-1] == (file.stat().st_size, file.stat().st_size)
    assert remembered(home) == []


def test_a_broken_stream_goes_on_from_what_is_committed(client: Client, world: World, file: Path) -> None:
    world.break_after_chunks = [2, 0, 1]
    client.datasets.upload(file, "digits")
    (received,) = world.received.values()
    assert bytes(received) == file.read_bytes()
    assert len(world.sent(api.CreateUploadRequest)) == 1


def test_a_killed_gateway_is_waited_for(client: Client, gateway: FakeGateway, file: Path) -> None:
    killed = threading.Event()

    def kill_once(done: int, total: int) -> None:
        if done >= 2 * MIB and not killed.is_set():
            killed.set()
            threading.Thread(target=gateway.kill_for, args=(0.5,)).start()

    dataset = client.datasets.upload(file, "digits", progress=kill_once)
    assert dataset.summary.size_bytes == file.stat().st_size


def test_a_second_try_of_another_client_goes_on(
    client: Client, gateway: FakeGateway, world: World, file: Path, home: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 3 * MIB:
            raise KeyboardInterrupt

    world.break_after_chunks = [3]
    with pytest.raises(KeyboardInterrupt):
        client.datasets.upload(
            file, "digits", progress=lambda done, total: stop(done, total) if done else None
        )
    assert len(remembered(home)) == 1

    first: list[int] = []
    with Client(gateway.target, "the-token") as other:
        other.datasets.upload(file, "digits", progress=lambda done, total: first.append(done))
    assert first[0] > 0
    assert len(world.sent(api.CreateUploadRequest)) == 1
    assert remembered(home) == []


def test_a_session_that_is_gone_is_begun_anew(client: Client, world: World, file: Path, home: Path) -> None:
    world.break_after_chunks = [2]
    world.errors["GetUpload"] = Refusal(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    with pytest.raises(e.PermissionDenied):
        client.datasets.upload(file, "digits")
    del world.errors["GetUpload"]
    world.uploads.clear()
    client.datasets.upload(file, "digits")
    assert len(world.sent(api.CreateUploadRequest)) == 2


def test_two_uploads_of_one_file_at_once_do_not_disturb_each_other(
    client: Client, world: World, file: Path
) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda name=name: results.append(client.datasets.upload(file, name).name))
        for name in ("digits", "digits", "other")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [f"projects/default/datasets/{name}" for name in ("digits", "digits", "other")]
    assert {hashlib.sha256(data).hexdigest() for data in world.received.values()} == {
        hashlib.sha256(file.read_bytes()).hexdigest()
    }


def test_a_data_set_that_is_there_with_the_same_bytes_is_returned(
    client: Client, world: World, file: Path
) -> None:
    first = client.datasets.upload(file, "digits")
    assert client.datasets.upload(file, "digits") == first
    assert len(world.uploads) == 1


def test_a_data_set_that_is_there_with_other_bytes_is_an_error(client: Client, file: Path) -> None:
    client.datasets.upload(file, "digits")
    file.write_bytes(b"other")
    with pytest.raises(e.AlreadyExists):
        client.datasets.upload(file, "digits")


def test_bytes_that_changed_on_the_way_are_refused_and_thrown_away(
    client: Client, world: World, file: Path, home: Path
) -> None:
    def tamper(done: int, total: int) -> None:
        if done == 0:
            file.write_bytes(bytes(total))

    with pytest.raises(e.DigestMismatch):
        client.datasets.upload(file, "digits", progress=tamper)
    assert world.uploads == {}
    assert remembered(home) == []


def test_a_file_that_becomes_shorter_is_an_error(client: Client, file: Path) -> None:
    def cut(done: int, total: int) -> None:
        os.truncate(file, MIB)

    with pytest.raises(OSError, match="became shorter"):
        client.datasets.upload(file, "digits", progress=cut)


def test_data_that_breaks_a_rule_is_named_and_forgotten(
    client: Client, world: World, file: Path, home: Path
) -> None:
    refusal = Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "INVALID_DATASET", "a/x.png: no image", {"item": "a/x.png"}
    )
    world.errors["FinishUpload"] = refusal
    with pytest.raises(e.InvalidDataset) as caught:
        client.datasets.upload(file, "digits")
    assert caught.value.metadata["item"] == "a/x.png"
    assert world.uploads == {}
    assert remembered(home) == []


def test_a_missing_file_is_an_error_of_the_system(client: Client, world: World) -> None:
    with pytest.raises(FileNotFoundError):
        client.datasets.upload("missing.zip", "digits")
    assert world.requests == []
