"""The duty of driving: a job that has a node, from STARTING to the end of its attempt."""

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass

from gateway.dispatch.peers import Nodes, Trainers
from gateway.dispatch.reign import Reign
from gateway.dispatch.stepping import Stepper
from gateway.dispatch.tasks import JobTasks
from gateway.jobs.job import Attempt, Condition, Job, LiveProgress
from gateway.jobs.states import DRIVEN, ConditionType, JobState
from gateway.ledger import attempts
from gateway.ledger.engine import Moved, Transaction
from gateway.ledger.jobs import ANY_JOB, get_job, ids_in, set_conditions, state_topic
from gateway.ledger.nodes import get_node
from gateway.nodes.node import FleetNode
from gateway.settings import GatewaySettings
from gateway.signals import Listener
from services.common.errors import ServiceError
from services.common.store import BlobStore

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 30.0


@dataclass(frozen=True)
class Situation:
    """A driven job with its attempt and node, as the ledger has them."""

    job: Job
    attempt: Attempt | None
    node: FleetNode | None

    @property
    def task(self) -> tuple[object, ...]:
        """What a step is chosen by: when it changes, the step is broken off."""
        stopping = self.job.state is JobState.CANCELLING or (self.attempt is not None and self.attempt.moving)
        # STARTING and RUNNING are one task: a run that begins to train is not to break off its own watching.
        return self.job.state in DRIVEN, self.job.attempt, stopping


class Driver:
    """Drives every job that has a node. A crash anywhere is made good by beginning the step again."""

    def __init__(self, settings: GatewaySettings, nodes: Nodes, trainers: Trainers, store: BlobStore) -> None:
        self._settings = settings
        self._nodes = nodes
        self._trainers = trainers
        self._store = store

    async def __call__(self, reign: Reign) -> None:
        """Drive until cancelled."""
        ledger, settings = reign.ledger, self._settings
        tasks = JobTasks(lambda job_id: self._drive(reign, job_id), settings.backoff_s, cancel_others=False)
        try:
            with ledger.signals.listen(ANY_JOB) as listener:
                while True:
                    tasks.keep(await ledger.read(lambda tx: ids_in(tx, DRIVEN)))
                    await listener.wait(settings.tick_s)
        finally:
            await tasks.end()

    async def _drive(self, reign: Reign, job_id: str) -> None:
        # One for the whole drive: it remembers how far the run's events were read.
        stepper = Stepper(self._settings, reign, self._nodes, self._trainers, self._store)
        pause_s = self._settings.backoff_s
        with reign.ledger.signals.listen(state_topic(job_id)) as listener:
            while (now := await self._situation(reign, job_id)) is not None and now.task[0]:
                try:
                    step = stepper.step(now.job, now.attempt, now.node)
                    await self._unless_changed(reign, now, step, listener)
                    pause_s = self._settings.backoff_s
                except Moved:
                    # Somebody else wrote first, a cancel for instance: look again at what is to be done.
                    continue
                except ServiceError as error:
                    # Time is no reason to give a run up: only its trainer, its node or a person can end it.
                    log.info("waiting", extra={"run": now.job.run, "error": str(error)})
                    await self._note(reign, now, error)
                    await listener.wait(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _unless_changed(
        self,
        reign: Reign,
        before: Situation,
        step: Coroutine[None, None, None],
        listener: Listener[LiveProgress],
    ) -> None:
        """Take a step to its end, or until the ledger says that something else is to be done."""
        work = asyncio.ensure_future(step)
        try:
            while not work.done():
                change = asyncio.ensure_future(listener.wait(self._settings.tick_s))
                # The tick is for what another replica wrote: no signal tells of that.
                await asyncio.wait({work, change}, return_when=asyncio.FIRST_COMPLETED)
                change.cancel()
                if not work.done():
                    latest = await self._situation(reign, before.job.id)
                    if latest is None or latest.task != before.task:
                        return
            work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _situation(self, reign: Reign, job_id: str) -> Situation | None:
        async def work(tx: Transaction) -> Situation | None:
            job = await get_job(tx, job_id)
            if job is None:
                return None
            attempt = await attempts.current_attempt(tx, job)
            node = None if attempt is None else await get_node(tx, attempt.node)
            return Situation(job, attempt, node)

        return await reign.ledger.read(work)

    async def _note(self, reign: Reign, before: Situation, error: ServiceError) -> None:
        """Tell who watches the job what stands in its way."""

        async def work(tx: Transaction) -> None:
            job = await get_job(tx, before.job.id)
            if job is not None and job.state in DRIVEN:
                await set_conditions(tx, job, (_trouble(before, error),))

        await reign.write(work)


def _trouble(now: Situation, error: ServiceError) -> Condition:
    if now.node is not None and now.node.reachable:
        message = (
            f"{now.node.name} reports, but its trainer gives no answer: {error}; the memory stays reserved"
        )
        return Condition.of(ConditionType.TRAINER_DOWN, message)
    name = "its node" if now.attempt is None else now.attempt.node
    message = f"{name} does not answer: {error}; its run may well go on"
    return Condition.of(ConditionType.NODE_UNREACHABLE, message)
