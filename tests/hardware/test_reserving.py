import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from services.common.errors import ApprovalRefused, InvalidCursor, ServiceError, StaleAttempt, WrongState
from services.common.rpc import from_rpc_error
from services.hardware.admission.approvals import Claims, Signer
from services.hardware.resources import HOST, DeviceAmount, NodeState
from services.hardware.units import MIB
from services.hardware.weighing import Decision
from tests.common.processes import ServiceProcess
from tests.hardware.conftest import Start
from tests.hardware.reserving import CAPACITY, SPEC, Caller, calling
from tests.hardware.samples import resolved_bytes
from weighbridge.hardware.v1 import service_pb2

SHA = hashlib.sha256(SPEC).hexdigest()
RUN = "runs/a-1"


@pytest.fixture
def server(start: Start) -> ServiceProcess:
    return start(**CAPACITY)


@pytest_asyncio.fixture
async def caller(server: ServiceProcess) -> AsyncIterator[Caller]:
    async with calling(server) as opened:
        yield opened


async def failure(call: Awaitable[object]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_node_takes_no_jobs_until_its_trainer_has_reported_itself(server: ServiceProcess) -> None:
    async with calling(server, ready=False) as caller:
        assert (await caller.node()).state is NodeState.NOT_READY
        answer = await caller.reserve(RUN, 10)
        assert (answer.decision, answer.token) == (Decision.WAIT, "")
        assert (await caller.report_trainer()).node == "nodes/lab-1"
        node = await caller.node()
        assert (node.state, node.trainer_address) == (NodeState.READY, "127.0.0.1:7003")
        assert (await caller.reserve(RUN, 10)).decision is Decision.ADMIT


async def test_two_jobs_that_fit_alone_but_not_together_are_never_both_admitted(caller: Caller) -> None:
    answers = await asyncio.gather(*(caller.reserve(f"runs/{job}-1", 600) for job in "abcdefgh"))
    decisions = sorted(answer.decision for answer in answers)
    assert decisions == [Decision.ADMIT] + [Decision.WAIT] * 7
    assert len(await caller.held()) == 1


async def test_the_second_job_gets_the_memory_when_the_first_gives_it_back(caller: Caller) -> None:
    first = await caller.reserve(RUN, 600)
    await caller.activate(RUN, first.token, SHA)
    waiting = await caller.reserve("runs/b-1", 600)
    assert waiting.decision is Decision.WAIT
    assert "runs/a-1" in waiting.summary
    await caller.release(RUN)
    assert (await caller.reserve("runs/b-1", 600)).decision is Decision.ADMIT


async def test_a_job_beyond_the_capacity_is_rejected_and_holds_nothing(caller: Caller) -> None:
    assert (await caller.reserve(RUN, 1001)).decision is Decision.REJECT
    assert await caller.held() == {}


async def test_reserving_again_gives_a_fresh_approval_of_the_same_memory(caller: Caller) -> None:
    first = await caller.reserve(RUN, 600)
    second = await caller.reserve(RUN, 600)
    assert second.decision is Decision.ADMIT
    assert first.token != second.token
    assert await caller.held() == {RUN: "held"}
    assert await activates(caller, first.token)
    third = await caller.reserve(RUN, 600)
    assert await activates(caller, third.token)


async def test_a_run_cannot_be_reserved_for_another_spec(caller: Caller) -> None:
    await caller.reserve(RUN, 600)
    other = resolved_bytes(seed=1)
    assert isinstance(await failure(caller.reserve(RUN, 600, other)), WrongState)


async def test_activation_is_idempotent_and_survives_the_approvals_end(start: Start) -> None:
    async with calling(start(WEIGHBRIDGE_HELD_TTL="2", **CAPACITY)) as caller:
        answer = await caller.reserve(RUN, 600)
        reservation = await caller.activate(RUN, answer.token, SHA)
        assert (reservation.state.value, reservation.spec_sha256) == ("active", SHA)
        assert reservation.amounts[0] == DeviceAmount(device=HOST, reserved_bytes=600 * MIB)
        await asyncio.sleep(3.5)
        assert await activates(caller, answer.token)
        assert await caller.held() == {RUN: "active"}


async def test_a_held_reservation_lapses_and_its_memory_is_free(start: Start) -> None:
    async with calling(start(WEIGHBRIDGE_HELD_TTL="1", **CAPACITY)) as caller:
        answer = await caller.reserve(RUN, 600)
        await until_nothing_is_held(caller)
        assert (await caller.reserve("runs/b-1", 600)).decision is Decision.ADMIT
        error = await failure(caller.activate(RUN, answer.token, SHA))
        assert isinstance(error, ApprovalRefused)
        # Its memory is gone, and only a new check can bring it back.
        assert (await caller.reserve(RUN, 600)).decision is Decision.WAIT


async def test_an_expired_approval_is_refused_though_its_memory_is_still_there(start: Start) -> None:
    async with calling(start(WEIGHBRIDGE_HELD_TTL="1", **CAPACITY)) as caller:
        answer = await caller.reserve(RUN, 600)
        await until_nothing_is_held(caller)
        assert "expired" in str(await failure(caller.activate(RUN, answer.token, SHA)))
        again = await caller.reserve(RUN, 600)
        assert await activates(caller, again.token)


async def test_what_the_node_did_not_approve_is_refused(caller: Caller, tmp_path: Path) -> None:
    good = await caller.reserve(RUN, 600)
    stranger = Signer.load(tmp_path / "stranger.pem", "nodes/lab-1")
    forged = stranger.sign(claims_of(good.token))
    own = Signer.load(tmp_path / "lab-1" / "approval_key.pem", "nodes/lab-2")
    elsewhere = own.sign(claims_of(good.token, node="nodes/lab-2"))
    for token, run, sha, reason in (
        (forged, RUN, SHA, "did not sign it"),
        (good.token[:-6], RUN, SHA, "did not sign it"),
        ("nonsense", RUN, SHA, "did not sign it"),
        (elsewhere, RUN, SHA, "it is for nodes/lab-2"),
        (good.token, "runs/b-1", SHA, "it is for runs/a-1"),
        (good.token, RUN, "cd" * 32, "another spec"),
    ):
        error = await failure(caller.activate(run, token, sha))
        assert isinstance(error, ApprovalRefused)
        assert reason in str(error)
    assert await caller.held() == {RUN: "held"}


async def test_an_approval_is_used_up_when_its_run_is_over(caller: Caller) -> None:
    answer = await caller.reserve(RUN, 600)
    await caller.activate(RUN, answer.token, SHA)
    await caller.release(RUN)
    assert isinstance(await failure(caller.activate(RUN, answer.token, SHA)), StaleAttempt)
    assert await caller.held() == {}


async def test_a_released_attempt_and_those_before_it_never_come_back(caller: Caller) -> None:
    await caller.release("runs/a-2")
    for attempt in (1, 2):
        error = await failure(caller.reserve(f"runs/a-{attempt}", 10))
        assert isinstance(error, StaleAttempt)
        assert error.highest_attempt == 2
    assert (await caller.reserve("runs/a-3", 10)).decision is Decision.ADMIT


async def test_an_approval_of_an_earlier_reservation_is_refused(start: Start) -> None:
    async with calling(start(WEIGHBRIDGE_HELD_TTL="1", **CAPACITY)) as caller:
        old = await caller.reserve(RUN, 600)
        await until_nothing_is_held(caller)
        # Somebody else's reservation makes the lapse final.
        await caller.reserve("runs/b-1", 100)
        await caller.reserve(RUN, 600)
        assert "earlier reservation" in str(await failure(caller.activate(RUN, old.token, SHA)))


async def test_a_running_jobs_own_memory_is_not_counted_twice(caller: Caller) -> None:
    answer = await caller.reserve(RUN, 600)
    await caller.activate(RUN, answer.token, SHA)
    await caller.report_usage(RUN, 500)
    node = await caller.node()
    device = next(device for device in node.devices if device.id == HOST)
    assert device.held_bytes == 600 * MIB
    assert device.available_bytes == 400 * MIB
    assert node.reservations[0].amounts[0].used_bytes == 500 * MIB


async def test_a_run_beyond_its_promise_takes_from_the_others(caller: Caller) -> None:
    answer = await caller.reserve(RUN, 600)
    await caller.activate(RUN, answer.token, SHA)
    await caller.report_usage(RUN, 800)
    assert (await caller.reserve("runs/b-1", 300)).decision is Decision.WAIT


async def test_use_is_reported_of_runs_that_have_a_reservation_only(caller: Caller) -> None:
    assert (await failure(caller.report_usage(RUN, 1))).reason == "NO_RESERVATION"


async def test_a_caller_who_hangs_up_leaves_journal_and_memory_equal(start: Start) -> None:
    server = start(**CAPACITY)
    async with calling(server) as caller:
        for index in range(20):
            task = asyncio.ensure_future(caller.reserve(f"runs/x{index}-1", 10))
            await asyncio.sleep(0.001 * (index % 5))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        # Calls take turns: when this one is answered, those before it are done.
        await caller.reserve("runs/last-1", 10)
        held = await caller.held()
    server.kill()
    async with calling(start(**CAPACITY)) as caller:
        assert await caller.held() == held


async def test_checking_reserves_nothing(caller: Caller) -> None:
    request = service_pb2.CheckFeasibilityRequest(resolved_spec=SPEC)
    request.estimate.SetInParent()
    verdict = await caller.gateway.CheckFeasibility(request)
    assert verdict.limits
    assert await caller.held() == {}


async def test_reservations_come_in_pages(caller: Caller) -> None:
    for job in "abc":
        await caller.reserve(f"runs/{job}-1", 10)
    runs: list[str] = []
    request = service_pb2.ListReservationsRequest(page_size=2)
    while True:
        page = await caller.gateway.ListReservations(request)
        runs += [held.run for held in page.reservations]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert runs == ["runs/a-1", "runs/b-1", "runs/c-1"]
    request.page_token = "bm9uc2Vuc2U"
    assert isinstance(await failure(caller.gateway.ListReservations(request)), InvalidCursor)


async def test_the_trainer_may_not_reserve(caller: Caller) -> None:
    request = service_pb2.ReserveRequest(run=RUN, resolved_spec=SPEC)
    request.estimate.SetInParent()
    assert (await failure(caller.trainer.Reserve(request))).reason == "PERMISSION_DENIED"


async def test_a_trainer_learns_which_runs_the_node_counts_as_alive(caller: Caller) -> None:
    answer = await caller.reserve(RUN, 600)
    await caller.reserve("runs/b-1", 100)
    await caller.activate(RUN, answer.token, SHA)
    assert [held.run for held in (await caller.report_trainer()).reservations] == [RUN]


async def activates(caller: Caller, token: str) -> bool:
    return (await caller.activate(RUN, token, SHA)).state.value == "active"


async def until_nothing_is_held(caller: Caller) -> None:
    while await caller.held():  # noqa: ASYNC110 - what changes is another process
        await asyncio.sleep(0.05)


def claims_of(token: str, **changed: str) -> Claims:
    body = token.split(".")[1]
    payload = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) | changed
    return Claims(
        id=payload["jti"],
        reservation_id=payload["reservation"],
        node=payload["node"],
        run=payload["run"],
        device=payload["device"],
        amounts=tuple(DeviceAmount(device=d, reserved_bytes=n) for d, n in payload["amounts"].items()),
        spec_sha256=payload["spec_sha256"],
        expire_time_s=payload["exp"],
    )
