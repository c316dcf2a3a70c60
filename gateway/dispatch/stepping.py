"""What is done for a job that has a node, by where it stands. Every step can be repeated at any point."""

import contextlib
from dataclasses import replace

from gateway.dispatch.following import Follower
from gateway.dispatch.peers import Nodes, Trainers
from gateway.dispatch.reign import Reign
from gateway.dispatch.reserving import Desk, approve
from gateway.dispatch.runs import StateChanged
from gateway.jobs.job import Attempt, Job
from gateway.jobs.states import ENDED, ConditionType, JobState, RunState
from gateway.ledger.attempts import delete_attempt
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import get_job, move, set_conditions
from gateway.nodes.node import FleetNode
from gateway.settings import GatewaySettings
from services.common.errors import Code, NotFound, PeerUnavailable, ServiceError, StaleAttempt
from services.common.failures import Failure
from services.common.store import BlobStore

# The trainer or the node says no, and would say it again.
_REFUSALS = frozenset({Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT})
_SILENCE = frozenset({ConditionType.TRAINER_DOWN, ConditionType.NODE_UNREACHABLE})


class Stepper:
    """Takes steps for one job."""

    def __init__(
        self, settings: GatewaySettings, reign: Reign, nodes: Nodes, trainers: Trainers, store: BlobStore
    ) -> None:
        self._settings = settings
        self._reign = reign
        self._nodes = nodes
        self._trainers = trainers
        self._store = store
        self._desk = Desk(nodes)
        self._follower: Follower | None = None

    async def step(self, job: Job, attempt: Attempt | None, node: FleetNode | None) -> None:
        """Do what is next. Raises ServiceError where a peer is in the way, Moved where the ledger went on."""
        if attempt is None:
            # Only a cancelled job comes here without an attempt.
            await self._reign.write(lambda tx: move(tx, job, JobState.CANCELLED))
        elif node is None:
            raise PeerUnavailable(attempt.node)
        elif attempt.approval is None:
            await self._drop(job, attempt, node)
        elif job.state is JobState.CANCELLING or attempt.moving:
            await self._stop(job, attempt, node)
        else:
            await self._run(job, attempt, node)

    async def _drop(self, job: Job, attempt: Attempt, node: FleetNode) -> None:
        """End a cancelled job whose node may have promised memory, but was told to start nothing."""
        await self._nodes.release(node.address, attempt.run)

        async def work(tx: Transaction) -> None:
            await delete_attempt(tx, attempt)
            await move(tx, job, JobState.CANCELLED)

        await self._reign.write(work)

    async def _stop(self, job: Job, attempt: Attempt, node: FleetNode) -> None:
        """Have a run stop, and end the attempt once its memory is free."""
        end = StateChanged(RunState.CANCELLED)
        if node.trainer_address:
            run = await self._trainers.cancel_run(
                node.trainer_address, attempt.run, self._settings.cancel_grace_s
            )
            # A run that never was has no events. Any other may turn out to have succeeded.
            with contextlib.suppress(NotFound):
                end = await self._follow(attempt).follow(node.trainer_address)
            if end.state is RunState.CANCELLED and run.state in ENDED:
                end = StateChanged(RunState.CANCELLED, failure=end.failure, peaks=end.peaks or run.peaks)
        # Not suppressed as elsewhere: who cancelled a job is promised that nothing stays reserved.
        await self._nodes.release(node.address, attempt.run)
        await self._follow(attempt).end(end)

    async def _run(self, job: Job, attempt: Attempt, node: FleetNode) -> None:
        """See to it that the run exists, and follow it to its end."""
        address = node.trainer_address
        # Asked first: before a crash the start may have been sent, and it may have arrived.
        try:
            await self._trainers.get_run(address, attempt.run)
        except NotFound:
            if not await self._start(job, attempt, node):
                return
        await self._answered(job)
        try:
            end = await self._follow(attempt).follow(address)
        except NotFound:
            # Its trainer forgot it, with all that it knew of it.
            await self._nodes.release(node.address, attempt.run)
            end = StateChanged(RunState.LOST)
        else:
            # The trainer does this too. Where neither can, the memory is freed when the node is back.
            with contextlib.suppress(ServiceError):
                await self._nodes.release(node.address, attempt.run)
        await self._follow(attempt).end(end)

    async def _start(self, job: Job, attempt: Attempt, node: FleetNode) -> bool:
        """Start the run; return whether there is one. Where it is refused the attempt ends."""
        if job.state is JobState.RUNNING:
            # It did exist. Starting it once more would train from the beginning under the same number.
            return await self._lose(attempt, node, None)
        try:
            await self._start_run(job, attempt, node)
        except ServiceError as error:
            if error.code not in _REFUSALS:
                raise
            # The approval may have come to its end while nobody was there to use it.
            return await self._start_afresh(job, attempt, node, error)
        return True

    async def _start_afresh(self, job: Job, attempt: Attempt, node: FleetNode, first: ServiceError) -> bool:
        """Start the run with a fresh approval of its reservation, or of a new one."""
        try:
            reserved = await self._desk.ask(self._reign, node, job)
            if reserved.approval is None:
                return await self._lose(attempt, node, reserved.verdict.summary)
            approval = reserved.approval
            await self._reign.write(lambda tx: approve(tx, job, approval))
            fresh = replace(attempt, approval=approval.message)
            await self._start_run(job, fresh, node)
        except ServiceError as error:
            if error.code not in _REFUSALS:
                raise
            detail = first if isinstance(error, StaleAttempt) else error
            return await self._lose(attempt, node, str(detail))
        return True

    async def _start_run(self, job: Job, attempt: Attempt, node: FleetNode) -> None:
        assert attempt.approval is not None
        assert job.resolved is not None
        await self._trainers.start_run(
            node.trainer_address, attempt.run, attempt.approval, job.resolved, job.project
        )

    async def _lose(self, attempt: Attempt, node: FleetNode, refused: str | None) -> bool:
        """End an attempt that has no run; its memory is freed first, and no late start can use it."""
        await self._nodes.release(node.address, attempt.run)
        failure = None if refused is None else _refused(attempt, refused)
        await self._follow(attempt).end(StateChanged(RunState.LOST, failure))
        return False

    async def _answered(self, job: Job) -> None:
        """Take back what was said while the trainer was silent."""

        async def work(tx: Transaction) -> None:
            latest = await get_job(tx, job.id)
            if latest is not None and latest.state is job.state:
                left = tuple(each for each in latest.conditions if each.type not in _SILENCE)
                await set_conditions(tx, latest, left)

        if any(condition.type in _SILENCE for condition in job.conditions):
            await self._reign.write(work)

    def _follow(self, attempt: Attempt) -> Follower:
        if self._follower is None or self._follower.run != attempt.run:
            delay_s = self._settings.sweep_delay_s
            self._follower = Follower(self._reign, self._trainers, self._store, delay_s, attempt)
        return self._follower


def _refused(attempt: Attempt, detail: str) -> Failure:
    message = f"{attempt.node} did not let {attempt.run} start: {detail}"
    return Failure(reason="START_REFUSED", message=message, metadata={"run": attempt.run, "detail": detail})
