"""Giving a node up: its attempts move on."""

from gateway.dispatch.ending import end_attempt
from gateway.dispatch.runs import StateChanged
from gateway.jobs.states import JobState, RunState
from gateway.ledger import attempts
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import get_job
from gateway.ledger.nodes import mark
from services.common.failures import Failure


async def give_up(tx: Transaction, node: str) -> None:
    """Declare a node lost and end every attempt that the ledger places on it.

    From here on nothing that a run there still does counts: its commits fail on the attempt's number.
    """
    await mark(tx, [node], lost=True, reachable=False)
    message = f"{node} was given up; whatever ran there does not count any more"
    failure = Failure(reason="NODE_LOST", message=message, metadata={"node": node})
    for attempt in await attempts.open_attempts_on(tx, node):
        # In the same transaction: there is no moment in which a lost node has live attempts.
        job = await get_job(tx, attempt.job)
        if job is None or job.attempt != attempt.attempt:
            continue
        if job.state is JobState.QUEUED:
            # Chosen, never started.
            await attempts.delete_attempt(tx, attempt)
            continue
        await end_attempt(tx, job, attempt, StateChanged(RunState.LOST, failure))
