"""The blob store on a disk, in memory and, where moto and s3fs are installed, on S3."""

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import DigestMismatch, InvalidRequest, NotFound
from services.common.store import BlobStore, digest_of
from tests.common.processes import ROOT, wait_for


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def local(tmp_path: Path) -> BlobStore:
    return BlobStore(f"file://{tmp_path}/store")


@pytest.fixture(params=["file", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    if request.param == "file":
        return BlobStore(f"file://{tmp_path}/store")
    if request.param == "memory":
        return BlobStore(f"memory://{uuid.uuid4().hex}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3_endpoint"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    import s3fs

    bucket = uuid.uuid4().hex
    s3fs.S3FileSystem().mkdir(bucket)
    return BlobStore(f"s3://{bucket}/prefix")


def corrupt(store: BlobStore, digest: str, data: bytes) -> None:
    store._fs.pipe_file(store._path(digest), data)


def test_a_blob_is_found_by_the_digest_of_its_bytes(store: BlobStore, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    digest = store.put_bytes(data)
    assert digest == digest_of(data) == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert store.exists(digest)
    assert store.size(digest) == len(data)
    assert store.read_bytes(digest) == data
    with store.open(digest, offset=1000) as file:
        assert file.read() == data[1000:]
    store.fetch(digest, tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == data


def test_a_file_and_chunks_give_the_same_blob_as_their_bytes(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1000)
    assert store.put_file(path) == store.put_chunks(iter([b"abc"] * 1000)) == store.put_bytes(b"abc" * 1000)
    assert store.size(store.put_bytes(b"")) == 0


def test_a_missing_blob_is_not_found(store: BlobStore, tmp_path: Path) -> None:
    digest = digest_of(b"never stored")
    assert not store.exists(digest)
    for use in (store.open, store.size, store.read_bytes, store.get_tree):
        with pytest.raises(NotFound):
            use(digest)
    with pytest.raises(NotFound):
        store.fetch(digest, tmp_path / "fetched")
    store.delete(digest)


def test_a_deleted_blob_is_gone(store: BlobStore) -> None:
    digest = store.put_bytes(b"abc")
    store.delete(digest)
    assert not store.exists(digest)


def test_a_corrupt_blob_is_never_fetched(store: BlobStore, tmp_path: Path) -> None:
    digest = store.put_bytes(b"the right bytes")
    corrupt(store, digest, b"the wrong bytes")
    with pytest.raises(DigestMismatch):
        store.fetch(digest, tmp_path / "fetched")
    with pytest.raises(DigestMismatch):
        store.read_bytes(digest)
    assert list(tmp_path.glob("**/*fetched*")) == []


def test_a_blob_cut_short_is_healed_by_putting_it_again(store: BlobStore) -> None:
    digest = store.put_bytes(b"the right bytes")
    corrupt(store, digest, b"the right")
    store.put_bytes(b"the right bytes")
    assert store.read_bytes(digest) == b"the right bytes"


def test_a_tree_comes_back_as_it_was(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    files = {
        "model.safetensors": b"w" * 1000,
        "a/b/deep.json": b"{}",
        "a.txt": b"",
        "a/z": b"same",
        "a-b": b"same",
    }
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    tree = store.put_tree(source)
    assert [entry.path for entry in tree.files] == sorted(files)
    assert tree.size_bytes == sum(map(len, files.values()))
    assert store.get_tree(tree.digest) == tree == store.put_tree(source)
    assert store.fetch_tree(tree.digest, tmp_path / "target") == tree
    found = {p.relative_to(tmp_path / "target").as_posix(): p for p in (tmp_path / "target").rglob("*")}
    assert {name: path.read_bytes() for name, path in found.items() if path.is_file()} == files


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../outside",
        "..",
        ".",
        "",
        "a//b",
        "a/./b",
        "a\\b",
        "a\0b",
        "/",
        "a/",
    ],
)
def test_a_path_that_leads_out_of_the_tree_is_refused(local: BlobStore, tmp_path: Path, path: str) -> None:
    entry = {"path": path, "digest": local.put_bytes(b"evil"), "size_bytes": 4}
    digest = local.put_bytes(json.dumps({"files": [entry]}).encode())
    with pytest.raises(InvalidRequest):
        local.fetch_tree(digest, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"weights",
        b"[]",
        b"{}",
        b'{"files": [1]}',
        b'{"files": [{"path": 1, "digest": "", "size_bytes": 0}]}',
    ],
)
def test_a_blob_that_is_no_manifest_is_no_tree(local: BlobStore, manifest: bytes) -> None:
    with pytest.raises(InvalidRequest):
        local.get_tree(local.put_bytes(manifest))


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", "sha256:" + "A" * 64, "md5:" + "a" * 32])
def test_what_is_no_digest_is_refused(local: BlobStore, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        local.size(digest)


def test_a_link_is_no_part_of_a_tree(local: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="link"):
        local.put_tree(source)


def test_a_tree_does_not_replace_another(local: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("new")
    tree = local.put_tree(tmp_path / "source")
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("old")
    with pytest.raises(OSError, match="not empty"):
        local.fetch_tree(tree.digest, target)
    assert (target / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store", "target"]


def test_a_tree_with_a_corrupt_file_does_not_appear(local: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_text("right")
    tree = local.put_tree(tmp_path / "source")
    corrupt(local, tree.files[0].digest, b"wrong")
    with pytest.raises(DigestMismatch):
        local.fetch_tree(tree.digest, tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "store"]


def put_repeatedly(url: str, data: bytes) -> str:
    store = BlobStore(url)
    return {store.put_bytes(data) for _ in range(20)}.pop()


def test_those_who_put_the_same_blob_at_once_all_succeed(local: BlobStore) -> None:
    data = os.urandom(200_000)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        digests = pool.starmap(put_repeatedly, [(local.url, data)] * 3)
    assert set(digests) == {digest_of(data)}
    assert local.read_bytes(digest_of(data)) == data
    assert all_files(local) == [Path(local._path(digest_of(data)))]


def all_files(local: BlobStore) -> list[Path]:
    return [path for path in Path(local._root).rglob("*") if path.is_file()]


ENDLESS_PUT = """
import sys, time
from services.common.store import BlobStore
def chunks():
    yield b"the first half"
    sys.stdout.write("half"); sys.stdout.flush()
    time.sleep(600)
BlobStore(sys.argv[1]).put_chunks(chunks())
"""


def test_what_a_crash_leaves_behind_is_never_a_blob(local: BlobStore) -> None:
    command = [sys.executable, "-c", ENDLESS_PUT, local.url]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.read(4) == b"half"
        wait_for(lambda: all_files(local))
        writer.kill()
    (left,) = all_files(local)
    assert left.name.endswith(".tmp")
    assert not (Path(local._root) / "sha256").exists()
    assert not local.exists(digest_of(b"the first half"))


def test_a_put_that_fails_leaves_nothing(local: BlobStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionError("the caller left")

    with pytest.raises(ConnectionError):
        local.put_chunks(chunks())
    assert all_files(local) == []
