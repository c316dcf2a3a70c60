"""Jobs that have succeeded already: written into a platform's ledger and store as a training would have."""

import asyncio
from pathlib import Path
from typing import Any

from gateway.jobs.job import Job, now
from gateway.jobs.states import JobState
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.jobs import insert_job
from gateway.packed import Packed
from services.common.names import new_id
from services.common.spec_wire import serialize_resolved, spec_to_message
from services.common.specs import Task
from services.common.store import BlobStore
from services.common.wire import to_message
from tests.e2e.platform import Platform
from tests.trainer.chats.artifacts import resolved_job
from weighbridge.common.v1 import artifacts_pb2


def made_job(platform: Platform, artifact: Path | None, config: dict[str, Any], task: Task = Task.SFT) -> str:
    """Write a job down that made the artifact (None: that made none), and return its id."""
    resolved = resolved_job(config, task)
    made: dict[str, Any] = {"state": JobState.FAILED}
    if artifact is not None:
        tree = BlobStore(f"file://{platform.home.root}/store").put_tree(artifact)
        packed = Packed(to_message(tree, artifacts_pb2.FileTree).SerializeToString())
        made = {"state": JobState.SUCCEEDED, "artifact": packed, "artifact_digest": tree.digest}
    job = Job(
        id=new_id(),
        project="default",
        caller="user/user",
        request_sha256="0" * 64,
        spec=Packed(spec_to_message(resolved.spec).SerializeToString()),
        task=task,
        dataset=resolved.spec.dataset,
        create_time=now(),
        resolved=serialize_resolved(resolved),
        **made,
    )
    asyncio.run(_insert(platform, job))
    return job.id


async def _insert(platform: Platform, job: Job) -> None:
    ledger = await Ledger.open(f"sqlite+aiosqlite:///{platform.home.state_dir('gateway')}/ledger.db")

    async def work(tx: Transaction) -> None:
        await insert_job(tx, job, {})

    try:
        await ledger.write(work)
    finally:
        await ledger.close()
