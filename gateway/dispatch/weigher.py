"""The duty of weighing: from PENDING to QUEUED, REJECTED or FAILED."""

import asyncio
import time
from typing import Any

from gateway.audit.records import Admission, Decision
from gateway.dispatch.reign import Reign
from gateway.dispatch.tasks import JobTasks
from gateway.jobs.job import Condition, Job, now
from gateway.jobs.references import look_up
from gateway.jobs.states import ConditionType, JobState
from gateway.ledger.audit import record_admission
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.jobs import ANY_JOB, change, get_job, ids_in, move, set_conditions
from gateway.ledger.nodes import all_nodes
from gateway.settings import GatewaySettings
from gateway.weighing.peers import Estimator, Question, spec_of
from gateway.weighing.scales import Weighed, weigh
from services.common.errors import Code, Draining, PeerUnavailable, QuotaExceeded, ServiceError
from services.common.failures import Failure, failure_of
from services.common.spec_wire import parse_resolved

_STATES = (JobState.PENDING, JobState.WEIGHING)
_TRIES = 3
_AT_ONCE = 4
_LONGEST_PAUSE_S = 60.0
# What the estimator says about the spec, and will say again.
_FINAL_CODES = frozenset(
    {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED}
)


class Weigher:
    """Weighs every job that has not been."""

    def __init__(self, settings: GatewaySettings, estimator: Estimator) -> None:
        self._settings = settings
        self._estimator = estimator
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, reign: Reign) -> None:
        """Weigh until cancelled."""
        ledger = reign.ledger
        # A job that was cancelled is nobody's business here any more, however long its estimate takes.
        tasks = JobTasks(
            lambda job_id: self._weigh(reign, job_id), self._settings.backoff_s, cancel_others=True
        )
        try:
            with ledger.signals.listen(ANY_JOB) as listener:
                while True:
                    tasks.keep(await ledger.read(lambda tx: ids_in(tx, _STATES)))
                    await listener.wait(self._settings.tick_s)
        finally:
            await tasks.end()

    async def _weigh(self, reign: Reign, job_id: str) -> None:
        pause_s = self._settings.backoff_s
        while (job := await reign.ledger.read(lambda tx: get_job(tx, job_id))) and job.state in _STATES:
            try:
                async with self._turns:
                    await self._step(reign, job)
                continue
            except Moved:
                continue
            # It was not even asked: that says nothing about the spec, and is not counted.
            except (PeerUnavailable, Draining, QuotaExceeded) as error:
                await self._note(reign, job_id, f"the estimator does not answer: {error}")
            except ServiceError as error:
                if await self._count(reign, job_id, error):
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _step(self, reign: Reign, job: Job) -> None:
        """Do the next thing that the ledger lacks. Whatever was done before a crash is not done again."""
        if job.state is JobState.PENDING:
            await reign.write(lambda tx: move(tx, job, JobState.WEIGHING))
        elif job.resolved is None:
            await self._resolve(reign, job)
        elif job.estimate is None:
            estimate = await self._estimator.estimate(job.resolved)
            await reign.write(lambda tx: change(tx, job, estimate=estimate))
        else:
            await self._decide(reign, job)

    async def _resolve(self, reign: Reign, job: Job) -> None:
        resolved = await self._estimator.resolve(await self._question(reign, job))
        model = parse_resolved(resolved.data).model
        values: dict[str, Any] = {
            "resolved": resolved.data,
            "spec_sha256": resolved.sha256,
            "warnings": resolved.warnings,
            "model_type": model.model_type,
            "base_artifact": model.artifact_digest,
        }

        async def once(tx: Transaction) -> None:
            latest = await get_job(tx, job.id)
            # These bytes are signed later: whoever came first made them, for good.
            if latest is None or latest.resolved is not None:
                raise Moved(job.id)
            await change(tx, job, **values)

        await reign.write(once)

    async def _decide(self, reign: Reign, job: Job) -> None:
        assert job.resolved is not None
        assert job.estimate is not None
        begin = time.monotonic()
        question = await self._question(reign, job)
        # Every node, silent or cordoned too: a job is rejected only where none could ever hold it.
        nodes = await reign.ledger.read(all_nodes)
        weighed = await weigh(self._estimator, question, job.resolved, job.estimate, nodes)
        entry = _admission(job, weighed, time.monotonic() - begin)

        async def keep(tx: Transaction) -> None:
            await record_admission(tx, entry)
            if weighed.decision is Decision.REJECT:
                failure = Failure(reason="DOES_NOT_FIT", message=weighed.summary)
                await move(tx, job, JobState.REJECTED, verdict=weighed.verdict, failure=failure)
                return
            waits = () if nodes else (Condition.of(ConditionType.NO_NODES, weighed.summary),)
            await move(tx, job, JobState.QUEUED, verdict=weighed.verdict, conditions=waits)

        await reign.write(keep)

    async def _question(self, reign: Reign, job: Job) -> Question:
        found = await reign.ledger.read(lambda tx: look_up(tx, job.project, spec_of(job.spec)))
        return Question(job.project, job.spec, found.dataset, found.base_artifact)

    async def _note(self, reign: Reign, job_id: str, message: str) -> None:
        async def work(tx: Transaction) -> None:
            job = await get_job(tx, job_id)
            if job is not None and job.state in _STATES:
                condition = Condition.of(ConditionType.ESTIMATOR_UNAVAILABLE, message)
                await set_conditions(tx, job, (condition,))

        await reign.write(work)

    async def _count(self, reign: Reign, job_id: str, error: ServiceError) -> bool:
        """Count a failure; return whether it was the last one."""

        async def work(tx: Transaction) -> bool:
            job = await get_job(tx, job_id)
            if job is None or job.state not in _STATES:
                return True
            tries = job.estimate_tries + 1
            if error.code in _FINAL_CODES:
                await move(tx, job, JobState.FAILED, failure=failure_of(error))
                return True
            if tries >= _TRIES:
                await move(tx, job, JobState.FAILED, failure=_given_up(tries, error), estimate_tries=tries)
                return True
            message = f"weighing died {tries} of {_TRIES} times: {error}"
            await change(tx, job, estimate_tries=tries)
            await set_conditions(tx, job, (Condition.of(ConditionType.ESTIMATOR_UNAVAILABLE, message),))
            return False

        return await reign.write(work)


def _given_up(tries: int, error: ServiceError) -> Failure:
    message = f"resolving or estimating the spec died {tries} times, the last time so: {error}"
    return Failure(
        reason="ESTIMATE_FAILED",
        message=f"{message}; simplify the model's configuration",
        metadata={"tries": str(tries), "detail": str(error)},
    )


def _admission(job: Job, weighed: Weighed, duration_s: float) -> Admission:
    return Admission(
        time=now(),
        project=job.project,
        job=job.id,
        caller=job.caller,
        decision=weighed.decision,
        summary=weighed.summary,
        spec_sha256=job.spec_sha256,
        duration_s=duration_s,
    )
