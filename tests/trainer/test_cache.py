"""The node's cache: whole or not there, and never taken from those who use it."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from services.common.errors import DigestMismatch, NotFound
from services.common.store import BlobStore
from services.trainer.cache import DiskFull, NodeCache
from services.trainer.runs.failing import RunFails
from services.trainer.runs.inputs import Inputs
from services.trainer.transfers import Transfers

SIZE = 1000


def stored(tmp_path: Path) -> BlobStore:
    return BlobStore(f"file://{tmp_path / 'store'}")


def cached(tmp_path: Path, limit_bytes: int = 1 << 30) -> NodeCache:
    return NodeCache(tmp_path / "cache", stored(tmp_path), Transfers(), limit_bytes)


def put(tmp_path: Path, count: int) -> list[str]:
    return [stored(tmp_path).put_bytes(bytes([number]) * SIZE) for number in range(count)]


def present(tmp_path: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (tmp_path / "cache" / "blobs").iterdir()}


async def test_a_blob_is_fetched_once(tmp_path: Path) -> None:
    (digest,) = put(tmp_path, 1)
    cache = cached(tmp_path)
    paths = await asyncio.gather(*(cache.blob(digest) for _ in range(5)))
    stored(tmp_path).delete(digest)
    assert await cache.blob(digest) == paths[0]
    assert paths[0].read_bytes() == bytes(SIZE)


async def test_a_tree_is_fetched_whole(tmp_path: Path) -> None:
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "inner" / "a").write_text("a")
    digest = stored(tmp_path).put_tree(tmp_path / "tree").digest
    cache = cached(tmp_path)
    first, second = await asyncio.gather(cache.tree(digest), cache.tree(digest))
    assert first == second
    assert (first / "inner" / "a").read_text() == "a"


async def test_what_the_store_lacks_or_has_broken_is_not_cached(tmp_path: Path) -> None:
    (digest,) = put(tmp_path, 1)
    hexadecimal = digest.removeprefix("sha256:")
    (tmp_path / "store" / "sha256" / hexadecimal[:2] / hexadecimal).write_bytes(b"other")
    with pytest.raises(DigestMismatch):
        await cached(tmp_path).blob(digest)
    with pytest.raises(NotFound):
        await cached(tmp_path).blob("sha256:" + "0" * 64)
    assert present(tmp_path) == set()


async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    digests = put(tmp_path, 4)
    cache = cached(tmp_path, limit_bytes=3 * SIZE)
    for age, digest in enumerate(reversed(digests[:3])):
        os.utime(await cache.blob(digest), (age, age))
    await cache.blob(digests[2])
    await cache.blob(digests[3])
    assert present(tmp_path) == {digests[0], digests[2], digests[3]}


async def test_what_is_in_use_stays(tmp_path: Path) -> None:
    digests = put(tmp_path, 3)
    cache = cached(tmp_path, limit_bytes=SIZE)
    async with cache.pinned([digests[0], digests[1]]):
        for digest in digests:
            await cache.blob(digest)
        assert present(tmp_path) == set(digests)
    await cache.blob(digests[2])
    other = stored(tmp_path).put_bytes(b"x")
    await cache.blob(other)
    assert present(tmp_path) == {other}


async def test_leftovers_of_a_crash_are_removed(tmp_path: Path) -> None:
    blobs = tmp_path / "cache" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / ".half.tmp").write_text("half")
    cached(tmp_path)
    assert list(blobs.iterdir()) == []


async def test_a_full_disk_is_said_so_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (digest,) = put(tmp_path, 1)
    cache = cached(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(DiskFull) as caught:
        await cache.blob(digest)
    assert (caught.value.needed_bytes, caught.value.free_bytes) == (SIZE, 10)
    with pytest.raises(RunFails) as failed:
        await Inputs(cache, tmp_path, retry_s=0)._fetched("the data", lambda: cache.blob(digest))
    assert failed.value.failure.reason == "DISK_FULL"
    assert failed.value.failure.metadata["needed_bytes"] == str(SIZE)


async def test_a_store_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    answers = [OSError("timeout"), OSError("timeout"), None]

    async def fetch() -> Path:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return tmp_path

    assert await Inputs(cached(tmp_path), tmp_path, retry_s=0)._fetched("the data", fetch) == tmp_path
    answers.extend([OSError("timeout")] * 9)
    with pytest.raises(RunFails) as failed:
        await Inputs(cached(tmp_path), tmp_path, retry_s=0)._fetched("the data", fetch)
    assert failed.value.failure.metadata == {"item": "the data", "detail": "timeout"}
