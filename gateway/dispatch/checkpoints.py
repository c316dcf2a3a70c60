"""Committing a checkpoint, and letting old ones go."""

import logging
from datetime import datetime

from gateway.dispatch.runs import Checkpointed
from gateway.jobs.job import Job
from gateway.jobs.jobs import checkpoint_owner
from gateway.ledger import attempts, blobs
from gateway.ledger.engine import Transaction
from gateway.ledger.events import append_event

log = logging.getLogger(__name__)


async def commit(tx: Transaction, job: Job, what: Checkpointed, due: datetime) -> None:
    """Make a checkpoint count. Older ones beyond the job's limit go, their blobs at `due`."""
    checkpoint = what.checkpoint
    if not await attempts.commit_checkpoint(tx, job.id, checkpoint):
        log.warning("checkpoint of another attempt", extra={"job": job.name, "attempt": checkpoint.attempt})
        return
    await append_event(tx, job.id, checkpoint.attempt, "checkpoint", what.message)
    kept = await attempts.checkpoints_of(tx, job.id)
    old = kept[: -job.save_total_limit]
    for each in old:
        await attempts.delete_checkpoint(tx, job.id, each)
    await blobs.let_go(tx, due, owners=[checkpoint_owner(job.id, each) for each in old])
