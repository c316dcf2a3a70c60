"""Files of artifacts, read from the store."""

import asyncio
from collections.abc import AsyncIterator

from gateway.jobs.job import Job
from services.common.errors import InvalidRequest, NotFound, WrongState
from services.common.specs import FileEntry
from services.common.store import BlobStore

CHUNK_BYTES = 1 << 20


async def find_file(store: BlobStore, job: Job, path: str, offset: int) -> FileEntry:
    """Return a file of a job's artifact.

    Raises:
        WrongState: the job has made none, or it was deleted.
        NotFound: the artifact has no such file.
        InvalidRequest: the file ends before `offset`.
    """
    if not job.artifact_digest:
        raise WrongState(job.name, f"{job.state} without an artifact", "a job that succeeded and was kept")
    tree = await asyncio.to_thread(store.get_tree, job.artifact_digest)
    entry = next((each for each in tree.files if each.path == path), None)
    if entry is None:
        raise NotFound(f"{job.name}/artifact/{path}")
    if offset > entry.size_bytes:
        raise InvalidRequest({"offset": f"{path} has {entry.size_bytes} bytes, fewer than {offset}"})
    return entry


async def read_file(store: BlobStore, entry: FileEntry, offset: int) -> AsyncIterator[bytes]:
    """Yield a file's bytes from an offset on, in chunks of CHUNK_BYTES. Raises NotFound."""
    file = await asyncio.to_thread(store.open, entry.digest, offset)
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()
