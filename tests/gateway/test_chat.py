"""A chat finds a node with room, the maker of its model first, and gives back what nobody took."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from gateway.jobs.job import Job, now
from gateway.jobs.states import JobState, RunState
from gateway.ledger.attempts import attempts_of, insert_attempt, update_attempt
from gateway.ledger.engine import Ledger, Transaction
from gateway.ledger.jobs import insert_job
from gateway.packed import Packed
from services.common.errors import (
    DoesNotFit,
    InvalidRequest,
    MustWait,
    NotFound,
    PeerUnavailable,
    ServiceError,
)
from services.common.names import is_chat_run, new_id
from services.common.rpc import from_rpc_error
from tests.gateway.rig import Rig
from weighbridge.common.v1 import chat_pb2, resolved_spec_pb2
from weighbridge.gateway.v1 import service_pb2
from weighbridge.hardware.v1 import resources_pb2
from weighbridge.trainer.v1 import service_pb2 as trainer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def made_job(rig: Rig, maker: str = "") -> str:
    """Write a job down that made a language model on a node; return its name."""
    resolved = resolved_spec_pb2.ResolvedSpec(resolver_version="test")
    job = Job(
        id=new_id(),
        project="default",
        caller="user/alice",
        request_sha256="0" * 64,
        spec=Packed(b""),
        task="sft",
        dataset="projects/default/datasets/digits",
        create_time=now(),
        state=JobState.SUCCEEDED,
        attempt=1 if maker else 0,
        resolved=resolved.SerializeToString(),
        artifact=Packed(rig.tree().SerializeToString()),
        artifact_digest="sha256:1",
    )
    ledger = await Ledger.open(rig.ledger_url)

    async def work(tx: Transaction) -> None:
        await insert_job(tx, job, {})
        if maker:
            await insert_attempt(tx, job.id, 1, maker)
            (attempt,) = await attempts_of(tx, job.id)
            await update_attempt(tx, attempt, state=RunState.SUCCEEDED, end_time=now())

    await ledger.write(work)
    await ledger.close()
    return job.name


@asynccontextmanager
async def chatting(rig: Rig, name: str, need: int = 10, caller: Any = None) -> AsyncIterator[Any]:
    """Open a chat that needs some bytes; yields what sends and what receives."""
    requests: asyncio.Queue[service_pb2.ChatRequest | None] = asyncio.Queue()
    requests.put_nowait(
        service_pb2.ChatRequest(opening=service_pb2.ChatOpening(name=name, context_tokens=need))
    )

    async def sent() -> AsyncIterator[service_pb2.ChatRequest]:
        while (request := await requests.get()) is not None:
            yield request

    call = (caller or rig.alice).stream("Chat", sent())
    try:
        yield requests, aiter(call)
    finally:
        call.cancel()
        requests.put_nowait(None)


async def refusal(rig: Rig, name: str, need: int = 10, caller: Any = None) -> ServiceError:
    """Return what a chat is refused with."""
    async with chatting(rig, name, need, caller) as (_, answers):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(answers)
    return from_rpc_error(caught.value)


async def ready(answers: Any) -> service_pb2.ChatReady:
    response: service_pb2.ChatResponse = await anext(answers)
    return response.ready


def say(text: str) -> service_pb2.ChatRequest:
    message = chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_USER, content=text)
    return service_pb2.ChatRequest(message=message)


async def nothing_reserved(rig: Rig) -> None:
    await rig.until(lambda: not any(node.reservations for node in rig.nodes))


async def test_the_node_that_made_the_model_is_asked_first(rig: Rig) -> None:
    # The other one is the tighter fit, and would get a job.
    await rig.node("small", 20)
    await rig.node("large", 1000)
    name = await made_job(rig, "nodes/large")
    async with chatting(rig, name) as (requests, answers):
        told = await ready(answers)
        assert (told.node, told.reserved_bytes, told.context_tokens) == ("nodes/large", 10, 9)
        assert list(told.notices) == ["be quick"]
        assert is_chat_run(told.run)
        requests.put_nowait(say("hello"))
        assert (await anext(answers)).text == "hello"
        requests.put_nowait(service_pb2.ChatRequest(stop=trainer_pb2.ChatStop()))
        assert (await anext(answers)).text == "stopped"
    await nothing_reserved(rig)


async def test_another_node_is_taken_where_the_maker_is_full(rig: Rig) -> None:
    maker, other = await rig.node("maker", 15), await rig.node("other", 15)
    name = await made_job(rig, "nodes/maker")
    async with chatting(rig, name) as (_, first):
        assert (await ready(first)).node == maker.name
        async with chatting(rig, name) as (_, second):
            assert (await ready(second)).node == other.name
            assert isinstance(await refusal(rig, name), MustWait)
    await nothing_reserved(rig)


async def test_a_chat_that_no_node_can_hold_is_refused(rig: Rig) -> None:
    await rig.node("small", 20)
    error = await refusal(rig, await made_job(rig), need=21)
    assert isinstance(error, DoesNotFit)
    assert "needs 21 of 20 bytes on nodes/small" in str(error)


async def test_a_report_that_is_late_is_not_believed(rig: Rig) -> None:
    """What would be lost: the next chat, for as long as the last report still shows the one before."""
    node = await rig.node("one", 15)
    name = await made_job(rig)
    for _ in range(3):
        async with chatting(rig, name) as (_, answers):
            assert (await ready(answers)).node == node.name
        await nothing_reserved(rig)


async def test_a_cordoned_node_gets_no_chat(rig: Rig) -> None:
    node = await rig.node()
    await rig.root.CordonNode(service_pb2.CordonNodeRequest(name=node.name))
    assert isinstance(await refusal(rig, await made_job(rig)), PeerUnavailable)


async def test_nothing_is_reserved_where_no_trainer_answers(rig: Rig) -> None:
    node = await rig.node()
    # The channels of client and gateway try again by themselves.
    node.trainer.faults.refuse("ListRuns", *[PeerUnavailable("the trainer")] * 50)
    assert isinstance(await refusal(rig, await made_job(rig)), PeerUnavailable)
    assert not node.reserved


async def test_a_caller_of_another_project_sees_no_model(rig: Rig) -> None:
    await rig.node()
    assert isinstance(await refusal(rig, await made_job(rig), caller=rig.bob), NotFound)


async def test_a_chat_begins_with_its_opening(rig: Rig) -> None:
    async def sent() -> AsyncIterator[service_pb2.ChatRequest]:
        yield say("hello")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(rig.alice.stream("Chat", sent())))
    assert isinstance(from_rpc_error(caught.value), InvalidRequest)


async def test_a_second_opening_ends_the_chat_and_frees_its_memory(rig: Rig) -> None:
    await rig.node()
    name = await made_job(rig)
    async with chatting(rig, name) as (requests, answers):
        await ready(answers)
        requests.put_nowait(service_pb2.ChatRequest(opening=service_pb2.ChatOpening(name=name)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(answers)
    assert isinstance(from_rpc_error(caught.value), InvalidRequest)
    await nothing_reserved(rig)


async def test_every_decision_is_in_the_audit_trail(rig: Rig) -> None:
    await rig.node("one", 15)
    name = await made_job(rig)
    async with chatting(rig, name) as (_, answers):
        await ready(answers)
        await refusal(rig, name)
    request = service_pb2.ListAdmissionsRequest(parent="projects/default", job=name)
    entries = (await rig.alice.ListAdmissions(request)).admissions
    assert [entry.decision for entry in entries] == [
        resources_pb2.DECISION_WAIT,
        resources_pb2.DECISION_ADMIT,
    ]
    assert {entry.caller for entry in entries} == {"user/alice"}
    assert all(entry.summary.startswith("chat: ") for entry in entries)


async def test_the_dispatcher_leaves_a_chat_alone(rig: Rig) -> None:
    """What would be lost: a conversation, ended as a run that no job needs."""
    node = await rig.node()
    async with chatting(rig, await made_job(rig)) as (requests, answers):
        run = (await ready(answers)).run
        node.activate(run)
        stray = resources_pb2.Reservation(run="runs/strange-1", state=resources_pb2.RESERVATION_STATE_ACTIVE)
        node.reservations[stray.run] = stray
        node.set(ready=True)
        await rig.until(lambda: stray.run in node.trainer.cancelled)
        assert run not in node.trainer.cancelled
        requests.put_nowait(say("still here"))
        assert (await anext(answers)).text == "still here"
