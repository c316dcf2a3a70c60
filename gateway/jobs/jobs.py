"""What callers do with jobs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.jobs.job import Attempt, Job, now
from gateway.jobs.references import look_up
from gateway.jobs.states import FINAL, RESUMABLE, JobState
from gateway.ledger import attempts, blobs
from gateway.ledger import jobs as ledger_jobs
from gateway.ledger.datasets import get_dataset
from gateway.ledger.engine import Ledger, Transaction
from gateway.packed import Packed
from gateway.scope import caller_name, enter, see
from services.common.errors import InUse, NotFound, RequestIdReused, WrongState
from services.common.names import new_id, parse_dataset, parse_job
from services.common.pages import decode_token, encode_token, page_size
from services.common.specs import Checkpoint, SchedulingOptions, TrainingSpec

# The contract's defaults, needed before the spec is resolved and after.
_RETRY_LIMIT = 3
_SAVE_TOTAL_LIMIT = 2


@dataclass(frozen=True)
class NewJob:
    """A request for a job."""

    project: str
    display_name: str
    request_id: str
    request_sha256: str
    """Of the request as it was sent: what a repeat is recognised by."""
    spec: TrainingSpec
    message: Packed
    """The spec as it was sent."""


@dataclass(frozen=True)
class JobView:
    """A job with its attempts, oldest first."""

    job: Job
    attempts: list[Attempt]


class Jobs:
    """The jobs that the caller of the call being served may see."""

    def __init__(self, ledger: Ledger, sweep_delay_s: float) -> None:
        self._ledger = ledger
        self._sweep_delay = timedelta(seconds=sweep_delay_s)

    async def create(self, new: NewJob) -> JobView:
        """Write a job down, or return the one that this request made before.

        Raises:
            RequestIdReused: the request id made a job from another request.
            NotFound, InvalidSpec: the spec names a data set or a job that it cannot use.
        """
        enter(new.project)
        caller = caller_name()

        async def work(tx: Transaction) -> JobView:
            # Before anything is checked: a repeat returns its job although its data set is gone by now.
            first = await ledger_jobs.find_request(tx, caller, new.request_id) if new.request_id else None
            if first is not None:
                return await self._repeated(tx, first, new)
            job = await _job_of(tx, new, caller)
            await ledger_jobs.insert_job(tx, job, new.spec.labels)
            return await _view(tx, job.id)

        return await self._ledger.write(work)

    async def _repeated(self, tx: Transaction, first: Job, new: NewJob) -> JobView:
        if first.request_sha256 != new.request_sha256:
            raise RequestIdReused(new.request_id, first.name)
        return await _view(tx, first.id)

    async def get(self, name: str) -> JobView:
        """Return a job. Raises NotFound."""
        return await self._ledger.read(lambda tx: find(tx, name))

    async def page(
        self,
        project: str,
        states: Collection[JobState],
        labels: Mapping[str, str],
        size: int,
        token: str,
    ) -> tuple[list[JobView], str]:
        """Return a page of a project's jobs, newest first, and the next page's token."""
        enter(project)
        scope = f"jobs {project} {sorted(states)} {sorted(labels.items())}"
        position = decode_token(token, {"time": str, "id": str}, scope) if token else None
        after = (datetime.fromisoformat(position["time"]), position["id"]) if position else None
        limit = page_size(size)

        async def work(tx: Transaction) -> list[JobView]:
            found = await ledger_jobs.list_jobs(tx, project, states, labels, after, limit + 1)
            return [JobView(job, await attempts.attempts_of(tx, job.id)) for job in found]

        views = await self._ledger.read(work)
        if len(views) <= limit:
            return views, ""
        last = views[limit - 1].job
        return views[:limit], encode_token({"time": last.create_time.isoformat(), "id": last.id}, scope)

    async def cancel(self, name: str) -> JobView:
        """Write down that a job is to stop; the dispatcher sees to it. A final state is left alone."""

        async def work(tx: Transaction) -> JobView:
            job = (await find(tx, name, hold=True)).job
            # Whatever runs or is reserved is the dispatcher's to end: it alone knows what is on its way.
            if job.state not in FINAL and job.state is not JobState.CANCELLING:
                await ledger_jobs.move(tx, job, JobState.CANCELLING, conditions=job.conditions)
            return await _view(tx, job.id)

        return await self._ledger.decide(work)

    async def resume(self, name: str) -> JobView:
        """Queue a failed or cancelled job again, from its last committed checkpoint.

        Raises:
            WrongState: it is in another state, or was never weighed.
            NotFound: it, its data set or the job it starts from does not exist any more.
        """

        async def work(tx: Transaction) -> JobView:
            job = (await find(tx, name, hold=True)).job
            if job.state not in RESUMABLE:
                raise WrongState(job.name, job.state, "failed or cancelled")
            if job.estimate is None:
                # Nothing is known of what it needs: there is nothing to go on from.
                raise WrongState(job.name, f"{job.state} before it was weighed", "a job that was weighed")
            await _check_inputs(tx, job)
            again = {"failure": None, "end_time": None, "not_before": None, "progress": None}
            await ledger_jobs.move(tx, job, JobState.QUEUED, retries_from=job.attempt, **again)
            return await _view(tx, job.id)

        return await self._ledger.decide(work)

    async def delete(self, name: str) -> JobView:
        """Remove a job in a final state with all that it made; returns what it was.

        Raises:
            WrongState: it is not in a final state.
            InUse: another job starts from it.
        """

        async def work(tx: Transaction) -> JobView:
            view = await find(tx, name, hold=True)
            job = view.job
            if job.state not in FINAL:
                raise WrongState(job.name, job.state, "a final state: cancel it first")
            user = await ledger_jobs.live_user_of(tx, base_job=job.id)
            if user is not None:
                raise InUse(job.name, user.name)
            await blobs.let_go(tx, now() + self._sweep_delay, scope=blobs.job_scope(job.id))
            await ledger_jobs.delete_job(tx, job.id)
            return view

        return await self._ledger.decide(work)

    async def checkpoints(self, name: str) -> list[Checkpoint]:
        """Return a job's committed checkpoints, oldest first."""

        async def work(tx: Transaction) -> list[Checkpoint]:
            return await attempts.checkpoints_of(tx, (await find(tx, name)).job.id)

        return await self._ledger.read(work)


async def find(tx: Transaction, name: str, *, hold: bool = False) -> JobView:
    """Return the job of a name that the caller may see. Raises NotFound.

    A caller's decision holds the job: against a dispatcher that moves it many times a second, a caller that
    only compares and begins again could lose every time.
    """
    project, job_id = parse_job(name)
    see(project, name)
    job = await ledger_jobs.get_job(tx, job_id, hold=hold)
    if job is None or job.project != project:
        raise NotFound(name)
    return JobView(job, await attempts.attempts_of(tx, job_id))


def artifact_owner(job_id: str) -> str:
    """Return the name under which a job's artifact needs its blobs."""
    return f"artifact/{job_id}"


def checkpoint_owner(job_id: str, checkpoint: Checkpoint) -> str:
    """Return the name under which a checkpoint needs its blobs."""
    return f"checkpoint/{job_id}/{checkpoint.attempt}/{checkpoint.step}"


async def _view(tx: Transaction, job_id: str) -> JobView:
    job = await ledger_jobs.get_job(tx, job_id)
    assert job is not None
    return JobView(job, await attempts.attempts_of(tx, job_id))


async def _job_of(tx: Transaction, new: NewJob, caller: str) -> Job:
    found = await look_up(tx, new.project, new.spec)
    scheduling = new.spec.scheduling or SchedulingOptions()
    limit = None if new.spec.checkpointing is None else new.spec.checkpointing.save_total_limit
    return Job(
        id=new_id(),
        project=new.project,
        display_name=new.display_name,
        caller=caller,
        request_id=new.request_id or None,
        request_sha256=new.request_sha256,
        spec=new.message,
        task=new.spec.task,
        dataset=new.spec.dataset,
        base_job=found.base_job,
        priority=scheduling.priority or 0,
        retry_limit=_RETRY_LIMIT if scheduling.retry_limit is None else scheduling.retry_limit,
        save_total_limit=limit or _SAVE_TOTAL_LIMIT,
        artifact_ttl_s=new.spec.artifact_ttl_s,
        create_time=now(),
    )


async def _check_inputs(tx: Transaction, job: Job) -> None:
    """Raise NotFound where what the job was resolved against is gone."""
    if await get_dataset(tx, *parse_dataset(job.dataset)) is None:
        raise NotFound(job.dataset)
    if job.base_job is not None:
        base = await ledger_jobs.get_job(tx, job.base_job)
        if base is None or base.artifact is None:
            raise NotFound(f"the artifact of job {job.base_job}")
