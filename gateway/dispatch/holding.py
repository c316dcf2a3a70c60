"""Trees that runs have published: needed first, then looked at, and only then believed."""

import asyncio

from gateway.dispatch.reign import Reign
from gateway.ledger import blobs
from services.common.errors import DigestMismatch, InvalidRequest, NotFound, ServiceError
from services.common.specs import FileTree
from services.common.store import BlobStore


class TreeKeeper:
    """Keeps what one job's runs have put into the store from being swept."""

    def __init__(self, reign: Reign, store: BlobStore, job_id: str) -> None:
        self._reign = reign
        self._store = store
        self._scope = blobs.job_scope(job_id)

    async def hold(self, owner: str, digest: str) -> ServiceError | None:
        """Write down that `owner` needs a tree's blobs; returns what is wrong where the store lacks one.

        What is held and not committed afterwards is let go with the job.
        """
        try:
            tree = await asyncio.to_thread(self._store.get_tree, digest)
            needed = [digest, *(entry.digest for entry in tree.files)]
            await blobs.claim(self._reign.write, self._scope, owner, needed)
            await asyncio.to_thread(_check_blobs, self._store, tree)
        except (NotFound, DigestMismatch, InvalidRequest) as error:
            return error
        return None


def _check_blobs(store: BlobStore, tree: FileTree) -> None:
    """Raise NotFound where a blob of the tree is missing."""
    for digest in (tree.digest, *(entry.digest for entry in tree.files)):
        if not store.exists(digest):
            raise NotFound(digest)
