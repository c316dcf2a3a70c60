"""The content-addressed store of datasets, checkpoints, logs and artifacts: blobs named by their SHA-256.

A blob is `sha256/ab/abcdef…` below the store's URL. It is there whole or not at all: locally it is written
under another name, flushed and renamed; an object store shows an object only when its upload has ended. Two
who put the same bytes put the same blob. Nothing that is read is believed before its digest was checked,
except by `open`.

Every method blocks: call them in a thread or a child process.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from services.common.atomic import fsync_directory, open_atomic, publish_directory, temporary_beside
from services.common.errors import DigestMismatch, InvalidRequest, NotFound
from services.common.specs import FileEntry, FileTree

CHUNK_BYTES = 1 << 20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class BlobStore:
    """A store at a URL that fsspec knows: `file:///…`, `s3://bucket/prefix`, `memory://…`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = root.rstrip("/")
        self._local = "file" in _protocols(self._fs)

    def put_bytes(self, data: bytes) -> str:
        """Store `data` and return its digest."""
        return self.put_chunks([data])

    def put_file(self, path: Path) -> str:
        """Store a file's bytes and return their digest."""
        with path.open("rb") as file:
            return self.put_chunks(_chunks(file))

    def put_chunks(self, chunks: Iterable[bytes]) -> str:
        """Store the concatenation of `chunks`, which may be larger than memory, and return its digest."""
        return self._put_locally(chunks) if self._local else self._upload(chunks)

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader that stands at `offset`. It does not check the digest. Raises NotFound."""
        try:
            file: BinaryIO = self._fs.open(self._path(digest), "rb")
        except FileNotFoundError:
            raise NotFound(digest) from None
        file.seek(offset)
        return file

    def size(self, digest: str) -> int:
        """Return a blob's size in bytes. Raises NotFound."""
        try:
            return int(self._fs.size(self._path(digest)))
        except FileNotFoundError:
            raise NotFound(digest) from None

    def exists(self, digest: str) -> bool:
        """Say whether the blob is there."""
        return bool(self._fs.exists(self._path(digest)))

    def read_bytes(self, digest: str) -> bytes:
        """Return a small blob whole. Raises NotFound, and DigestMismatch where it is corrupt."""
        with self.open(digest) as file:
            data = file.read()
        _verify(digest, hashlib.sha256(data).hexdigest())
        return data

    def fetch(self, digest: str, path: Path) -> None:
        """Copy a blob to `path`, which appears only once the digest was found right.

        Raises:
            NotFound: there is no such blob.
            DigestMismatch: its bytes are corrupt.
        """
        checksum = hashlib.sha256()
        with self.open(digest) as source, open_atomic(path) as target:
            for chunk in _chunks(source):
                checksum.update(chunk)
                target.write(chunk)
            _verify(digest, checksum.hexdigest())

    def delete(self, digest: str) -> None:
        """Remove a blob, if it is there. Trees share blobs: know who else needs it."""
        try:
            self._fs.rm_file(self._path(digest))
        except FileNotFoundError:
            return

    def put_tree(self, directory: Path) -> FileTree:
        """Store the files below a directory and a manifest that names them. Raises ValueError for a link."""
        files = []
        for path in sorted(directory.rglob("*")):
            if path.is_symlink():
                raise ValueError(f"{path} is a link: a tree holds files only")
            if path.is_file():
                name = path.relative_to(directory).as_posix()
                files.append(FileEntry(path=name, digest=self.put_file(path), size_bytes=path.stat().st_size))
        # Sorted by text, not by path components as above: the order in which any reader would sort them.
        files.sort(key=lambda entry: entry.path)
        manifest = {"files": [vars(entry) for entry in files]}
        digest = self.put_bytes(json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode())
        return _tree(digest, files)

    def get_tree(self, digest: str) -> FileTree:
        """Return the tree whose manifest has this digest.

        Raises:
            NotFound: there is no such blob.
            DigestMismatch: the manifest is corrupt.
            InvalidRequest: the blob is no manifest, or a path in it leads out of the tree.
        """
        data = self.read_bytes(digest)
        try:
            files = [_entry(**raw) for raw in json.loads(data)["files"]]
        except (ValueError, TypeError, KeyError):
            raise InvalidRequest({"digest": f"{digest} is no file tree"}) from None
        return _tree(digest, files)

    def fetch_tree(self, digest: str, directory: Path) -> FileTree:
        """Copy a tree to `directory`, which appears whole. Raises as get_tree and fetch do.

        Raises:
            OSError: `directory` exists and holds something.
        """
        tree = self.get_tree(digest)
        temporary = temporary_beside(directory)
        temporary.mkdir(parents=True)
        try:
            for entry in tree.files:
                path = temporary / entry.path
                path.parent.mkdir(parents=True, exist_ok=True)
                self.fetch(entry.digest, path)
            publish_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return tree

    def _path(self, digest: str) -> str:
        found = _DIGEST.fullmatch(digest)
        if found is None:
            raise InvalidRequest({"digest": f"{digest!r} is not `sha256:` and 64 hexadecimal digits"})
        return f"{self._root}/sha256/{found[1][:2]}/{found[1]}"

    def _put_locally(self, chunks: Iterable[bytes]) -> str:
        checksum = hashlib.sha256()
        # On the same disk as its final name, or the rename would be a copy.
        incoming = Path(self._root, "incoming")
        incoming.mkdir(parents=True, exist_ok=True)
        landing = temporary_beside(incoming / "blob")
        try:
            with landing.open("xb") as file:
                for chunk in chunks:
                    checksum.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            digest = f"sha256:{checksum.hexdigest()}"
            target = Path(self._path(digest))
            target.parent.mkdir(parents=True, exist_ok=True)
            # Also where the blob exists: renaming costs less than reading it to be sure, and heals a
            # damaged one.
            landing.replace(target)
        finally:
            landing.unlink(missing_ok=True)
        # The second one for the name of the first, which may be new.
        for directory in (target.parent, target.parent.parent):
            fsync_directory(directory)
        return digest

    def _upload(self, chunks: Iterable[bytes]) -> str:
        # The name is known only after the last byte, and an object cannot be renamed.
        checksum = hashlib.sha256()
        with tempfile.NamedTemporaryFile() as spool:
            for chunk in chunks:
                checksum.update(chunk)
                spool.write(chunk)
            spool.flush()
            digest = f"sha256:{checksum.hexdigest()}"
            path = self._path(digest)
            if not self._fs.exists(path) or self._fs.size(path) != spool.tell():
                # Not a file opened for writing: closing one after a failure would make an object of the half.
                self._fs.put_file(spool.name, path)
        return digest


def digest_of(data: bytes) -> str:
    """Return the digest that names `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _verify(expected: str, hexadecimal: str) -> None:
    if expected != f"sha256:{hexadecimal}":
        raise DigestMismatch(expected, f"sha256:{hexadecimal}")


def _tree(digest: str, files: list[FileEntry]) -> FileTree:
    return FileTree(digest=digest, size_bytes=sum(entry.size_bytes for entry in files), files=tuple(files))


def _entry(path: str, digest: str, size_bytes: int) -> FileEntry:
    # A manifest is bytes from elsewhere: it must not write beside the directory it is fetched to.
    parts = PurePosixPath(path).parts
    inside = parts and "/".join(parts) == path and ".." not in parts and parts[0] != "/"
    if not inside or "\\" in path or "\0" in path:
        raise InvalidRequest({"files.path": f"{path!r} leads out of the tree"})
    if not _DIGEST.fullmatch(digest):
        raise InvalidRequest({"files.digest": f"{digest!r} is no digest"})
    return FileEntry(path=path, digest=digest, size_bytes=int(size_bytes))
