"""Where memory is asked for, claimed and given back: check and reservation are one step, whoever asks."""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from services.common.context import spawn
from services.common.errors import (
    ApprovalRefused,
    NoReservation,
    PeerUnavailable,
    StaleAttempt,
    WrongState,
)
from services.common.spec_wire import parse_resolved
from services.common.specs import Checkpoint, ResolvedSpec
from services.hardware.admission.approvals import Claims, Signer
from services.hardware.admission.promises import Promises
from services.hardware.admission.records import amounts_to_json
from services.hardware.admission.reservations import Activated, Entry, Held, Released
from services.hardware.admission.verdicts import device_kind, reserved_already, weigh
from services.hardware.admission.view import NodeView
from services.hardware.resources import Approval, Reservation, ReservationState
from services.hardware.weighing import Decision, Estimate, Verdict

log = logging.getLogger(__name__)
T = TypeVar("T")


class Desk:
    """The node's reservations. Calls take turns; a turn once begun is finished, though its caller left."""

    def __init__(self, view: NodeView, promises: Promises, signer: Signer, held_ttl_s: float) -> None:
        self._view = view
        self._promises = promises
        self._signer = signer
        self._ttl_s = held_ttl_s
        self._turn = asyncio.Lock()
        self._turns: set[asyncio.Task[Any]] = set()

    async def check(self, resolved_spec: bytes, estimate: Estimate) -> Verdict:
        """Weigh a job against what is free now; nothing is reserved. Raises InvalidRequest."""
        return weigh(await self._view.read(), parse_resolved(resolved_spec), estimate)

    async def reserve(
        self, run: str, resolved_spec: bytes, estimate: Estimate, start_from: Checkpoint | None = None
    ) -> tuple[Verdict, Approval | None]:
        """Promise a run its memory where it fits now, and sign an approval of it.

        A run that has its memory already gets a fresh approval and, where it has not started, its time anew.

        Raises:
            StaleAttempt: this attempt or a later one of its job was released.
            WrongState: the run was promised memory for another spec.
            InvalidRequest: the bytes are no resolved spec.
        """
        return await self._in_turn(self._reserve(run, resolved_spec, estimate, start_from))

    async def activate(self, token: str, spec_sha256: str, run: str) -> Reservation:
        """Turn a held reservation into an active one. Idempotent on (reservation, run).

        Raises:
            ApprovalRefused: not this node's own approval, not in time, or for another run, spec or
            reservation. StaleAttempt, NoReservation: there is nothing (any more) to claim. PeerUnavailable:
            this node does not know yet what it promised; it will soon.
        """
        return await self._in_turn(self._activate(token, spec_sha256, run))

    async def release(self, run: str) -> None:
        """Free a run's memory for good. Idempotent; an unknown run is refused from now on."""
        await self._in_turn(self._release(run))

    async def adopt(self, live: Sequence[Entry]) -> None:
        """Begin a journal with the attempts that the gateway says live here. No effect where there is one."""
        await self._in_turn(self._promises.adopt(live))
        self._view.notify()

    @property
    def knows_promises(self) -> bool:
        """Whether there is a journal."""
        return self._promises.known

    def holding(self) -> list[Reservation]:
        """Return the reservations that hold memory now, by run."""
        return self._promises.book.holding()

    def active(self) -> list[Reservation]:
        """Return those of runs that may have a process."""
        return [held for held in self.holding() if held.state is ReservationState.ACTIVE]

    def report_usage(self, run: str, used: Mapping[str, int]) -> None:
        """Remember what a run uses now, by device. Raises NoReservation."""
        entry = self._promises.book.get(run)
        if entry is None or entry.state is ReservationState.EXPIRED:
            raise NoReservation(run)
        # Not in turn and not on the disk: a lost report is replaced by the next, a second later.
        self._promises.book.report_usage(run, used)

    async def _reserve(
        self, run: str, resolved_spec: bytes, estimate: Estimate, start_from: Checkpoint | None
    ) -> tuple[Verdict, Approval | None]:
        self._refuse_stale(run)
        digest = hashlib.sha256(resolved_spec).hexdigest()
        entry = self._promises.book.get(run)
        if entry is not None and entry.state is not ReservationState.EXPIRED:
            verdict = self._renew(entry, digest)
        else:
            # An expired one is weighed like a new one: its memory may be somebody else's by now.
            verdict, entry = await self._promise(run, parse_resolved(resolved_spec), digest, estimate)
        return verdict, None if entry is None else self._signer.approve(entry, start_from, self._ttl_s)

    def _renew(self, entry: Entry, digest: str) -> Verdict:
        if entry.spec_sha256 != digest:
            raise WrongState(entry.run, "reserved for another spec", "a run without a reservation")
        self._promises.book.renew(entry.run)
        return reserved_already(self._view.name, entry.device, entry.amounts)

    async def _promise(
        self, run: str, resolved: ResolvedSpec, digest: str, estimate: Estimate
    ) -> tuple[Verdict, Entry | None]:
        # Read anew, in this turn: a snapshot of a moment ago may have admitted somebody else since.
        node = await self._view.read()
        verdict = weigh(node, resolved, estimate)
        if verdict.decision is not Decision.ADMIT:
            return verdict, None
        placement = resolved.spec.placement
        entry = Entry(
            id=uuid.uuid4().hex,
            run=run,
            state=ReservationState.HELD,
            amounts=verdict.amounts,
            device=device_kind(node, resolved),
            spec_sha256=digest,
            create_time=datetime.now(UTC),
            shared=placement is not None and bool(placement.shared),
        )
        # The verdict counted lapsed memory as free. That must be on the disk no later than the new promise,
        # or a restart would bring the old one back beside it.
        await self._promises.write(*self._promises.book.lapsed(), Held(entry))
        self._view.notify()
        log.info("reserved", extra={"run": run, "amounts": amounts_to_json(entry.amounts)})
        return verdict, entry

    async def _activate(self, token: str, spec_sha256: str, run: str) -> Reservation:
        # The signature comes first: whoever shows no approval of this node learns nothing of its runs.
        claims = self._signer.verify(token, run)
        if claims.spec_sha256 != spec_sha256:
            raise ApprovalRefused(run, "it is for another spec")
        self._refuse_stale(run)
        entry = self._promises.book.get(run)
        if entry is None:
            # Without a journal it may be one that the gateway is about to name: the caller tries again.
            raise NoReservation(run) if self._promises.known else PeerUnavailable("the gateway")
        self._refuse_outdated(claims, entry)
        if entry.state is ReservationState.HELD:
            await self._promises.write(Activated(run, claims.id))
            self._view.notify()
            log.info("activated", extra={"run": run})
        return self._promises.book.reservation(self._promises.book.get(run) or entry)

    async def _release(self, run: str) -> None:
        book = self._promises.book
        if book.get(run) is None and book.highest_released(run) is not None:
            return
        await self._promises.write(Released(run))
        self._view.notify()
        log.info("released", extra={"run": run})

    def _refuse_stale(self, run: str) -> None:
        highest = self._promises.book.highest_released(run)
        if highest is not None:
            raise StaleAttempt(run, highest)

    def _refuse_outdated(self, claims: Claims, entry: Entry) -> None:
        if claims.reservation_id != entry.id:
            raise ApprovalRefused(entry.run, "it is for an earlier reservation of this run")
        if entry.state is ReservationState.EXPIRED:
            raise ApprovalRefused(entry.run, "its reservation lapsed before it was claimed: reserve again")
        # Once the reservation is active the approval has done its work: a repeated claim may come late.
        if entry.state is ReservationState.HELD and claims.expire_time_s <= time.time():
            raise ApprovalRefused(entry.run, "it has expired: reserve again")

    async def _in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work alone and to its end: a caller who hangs up must not leave journal and book different."""

        async def turn() -> T:
            async with self._turn:
                return await work

        # Outside of the call's own task, or the end of the call would be the end of the work.
        task = spawn(turn(), "desk")
        self._turns.add(task)
        task.add_done_callback(self._turns.discard)
        return await asyncio.shield(task)
