"""A large file that arrives in pieces: what a broken download left is gone on from.

The hub's library keeps nothing of a file that it did not finish. Where the hub serves files over plain HTTP,
this fetches the bytes under a name that the next try finds again, and leaves the rest to the library. Where
it serves them through Xet, the library's own way is faster, and a file that was not finished begins anew.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._runtime import is_xet_available

from services.trainer.hubcache import counting_bar

# The library's own tools know such files as leftovers.
SUFFIX = ".resumed.incomplete"
_BLOCK_BYTES = 1 << 20


class Partial:
    """The bytes of one file so far. `sha256` is what the hub says of them."""

    def __init__(self, repository: str, name: str, commit: str, blobs: Path, sha256: str) -> None:
        self._url = hf_hub_url(repository, name, revision=commit)
        self._blob = blobs / sha256
        self._path = blobs / f"{sha256}{SUFFIX}"
        self._sha256 = sha256

    @property
    def size_bytes(self) -> int:
        """How much of it is here."""
        return self._path.stat().st_size if self._sha256 and self._path.exists() else 0

    def complete(self, token: str | bool, add: Callable[[int], None]) -> None:
        """Fetch the rest and put the whole where the cache keeps bytes; nothing where the library is better.

        `add` is told of bytes, those that were here already too. Raises what the library raises.
        """
        if self._blob.exists():
            return
        found = get_hf_file_metadata(self._url, token=token)
        if found.xet_file_data is not None and is_xet_available():
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            # Another process is at it, one that outlived its service say: the library fetches its own copy.
            if not _locked(file):
                return
            begun_bytes = os.fstat(file.fileno()).st_size
            add(begun_bytes)
            # Only the hub itself gets the token: what it points at may be anybody's.
            elsewhere = urlsplit(found.location).netloc != urlsplit(self._url).netloc
            headers = build_hf_headers(token=False if elsewhere else token)
            http_get(
                found.location,
                file,
                resume_size=begun_bytes,
                headers=headers,
                expected_size=found.size,
                tqdm_class=counting_bar(add),
            )
            file.flush()
            os.fsync(file.fileno())
        # The library compares sizes alone, and here two downloads were joined.
        if begun_bytes and self._digest() != self._sha256:
            self._path.unlink()
            return
        self._path.replace(self._blob)

    def _digest(self) -> str:
        with self._path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
