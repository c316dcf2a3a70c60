"""Downloads from a run's artifact, which lies in the store."""

import asyncio
from collections.abc import AsyncGenerator

from services.common.errors import InvalidRequest, NotFound, WrongState
from services.common.specs import FileEntry
from services.common.store import CHUNK_BYTES, BlobStore
from services.trainer.runs.records import Run, RunState
from services.trainer.transfers import Transfers


def artifact_file(run: Run, path: str) -> FileEntry:
    """Return a file of a run's artifact.

    Raises:
        WrongState: the run has made none.
        NotFound: the artifact has no such file.
    """
    if run.artifact is None:
        raise WrongState(run.name, run.state, RunState.SUCCEEDED)
    for entry in run.artifact.files:
        if entry.path == path:
            return entry
    raise NotFound(f"{run.name}/artifact/{path}")


async def read_file(
    store: BlobStore, transfers: Transfers, entry: FileEntry, offset: int
) -> AsyncGenerator[bytes]:
    """Yield a file's bytes from `offset` on, at most 1 MiB at a time.

    Raises:
        InvalidRequest: the file ends before `offset`.
        NotFound: the store has lost it.
    """
    if offset > entry.size_bytes:
        raise InvalidRequest({"offset": f"{offset} is beyond the file's {entry.size_bytes} bytes"})
    # Not verified on the way: the digest goes ahead of the bytes, for whoever receives them.
    file = await transfers.run(lambda: store.open(entry.digest, offset))
    try:
        while chunk := await transfers.run(lambda: file.read(CHUNK_BYTES)):
            yield chunk
    finally:
        await asyncio.to_thread(file.close)
