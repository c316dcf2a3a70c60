"""Chats on a trainer: memory is held exactly as long as a process is there, however the chat ends."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from services.common.errors import Code, NoReservation
from tests.trainer.chats.artifacts import chat_spec
from tests.trainer.chats.caller import Caller, chatting, children, new_run
from tests.trainer.fake_node import approval
from tests.trainer.harness import Trainer, eventually, refused, trainer_at
from weighbridge.common.v1 import chat_pb2
from weighbridge.trainer.v1 import service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
COMMAND = json.dumps([sys.executable, str(Path(__file__).with_name("scripted_child.py"))])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    async with trainer_at(tmp_path_factory.mktemp("chats"), WEIGHBRIDGE_CHAT_COMMAND=COMMAND) as started:
        yield started


@pytest.fixture
def digest(trainer: Trainer) -> str:
    directory = trainer.directory / "model"
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text("{}")
    return trainer.store.put_tree(directory).digest


async def over(trainer: Trainer, run: str) -> None:
    """Wait until nothing of a chat is left; the memory is given back after the process is gone."""
    await eventually(lambda: run in trainer.node.released)
    assert not children(trainer)
    assert run not in trainer.node.active


async def test_an_answer_comes_piece_by_piece(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        assert (await chat.ready()).context_tokens == 256
        chat.say("how are you")
        pieces = [(await chat.next()).text for _ in range(3)]
        assert pieces == ["how ", "are ", "you "]
        end = (await chat.next()).turn_end
        assert (end.finish_reason, end.completion_tokens) == (chat_pb2.FINISH_REASON_STOP, 3)


async def test_memory_is_active_before_the_child_is_there_and_released_after_it(
    trainer: Trainer, digest: str
) -> None:
    run = new_run()
    seen: list[int] = []

    async def look() -> None:
        seen.append(len(children(trainer)))

    trainer.node.before_activation[run] = look
    async with chatting(trainer, digest, run) as chat:
        await chat.ready()
        assert seen == [0]
        assert trainer.node.active == {run}
        assert len(children(trainer)) == 1
        chat.say_no_more()
        assert await chat.rest() == []
    await over(trainer, run)


async def test_the_child_is_told_what_was_signed(trainer: Trainer, digest: str) -> None:
    options = chat_pb2.GenerationOptions(max_new_tokens=7, temperature=0, seed=5)
    async with chatting(trainer, digest, context_tokens=99, options=options) as chat:
        told = json.loads((await chat.ready()).notices[0])
        assert told["context_tokens"] == 99
        assert told["reserved"] == {"host": 2 << 30}
        assert told["options"] == {"max_new_tokens": 7, "temperature": 0.0, "top_p": None, "seed": 5}
        assert told["system_prompt"] == "be kind"


async def test_a_child_has_no_credential(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        (child,) = children(trainer)
        assert [name for name in child.environ() if "TOKEN" in name or "IDENTITIES" in name] == []


async def test_a_stopped_answer_ends_and_the_chat_goes_on(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat.say("hang")
        assert (await chat.next()).text == "hanging "
        chat.stop()
        assert (await chat.next()).turn_end.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
        assert await chat.ask("again") == "again "


async def test_a_refused_message_leaves_the_chat_as_it_was(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat.say("refuse")
        refusal = (await chat.next()).refusal
        assert (refusal.reason, refusal.metadata["limit"]) == ("PROMPT_TOO_LONG", "3")
        assert await chat.ask("again") == "again "


async def test_what_is_said_before_the_model_is_loaded_is_answered(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        for text in ("one", "two"):
            chat.say(text)
        chat.say_no_more()
        await chat.ready()
        texts = "".join(answer.text for answer in await chat.rest())
        assert texts == "one two "


async def test_a_caller_that_leaves_takes_everything_along(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat.say("hang")
        await chat.next()
    await over(trainer, chat.run)


async def test_a_child_that_dies_ends_the_chat(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat.say("die")
        async with refused("WORKER_LOST", Code.ABORTED) as refusal:
            await chat.rest()
        assert "was killed" in refusal.message
    await over(trainer, chat.run)


async def test_an_artifact_that_is_no_model_is_refused(trainer: Trainer) -> None:
    directory = trainer.directory / "nothing"
    directory.mkdir()
    (directory / "readme").write_text("nothing here")
    tree = trainer.store.put_tree(directory)
    async with chatting(trainer, tree.digest) as chat, refused("INVALID_MODEL", Code.INVALID_ARGUMENT):
        await chat.rest()
    await over(trainer, chat.run)


async def test_an_artifact_that_is_gone_is_refused(trainer: Trainer) -> None:
    async with chatting(trainer, "sha256:" + "0" * 64) as chat, refused("NOT_FOUND"):
        await chat.rest()
    await over(trainer, chat.run)


async def test_what_the_node_refuses_is_not_started(trainer: Trainer, digest: str) -> None:
    run = new_run()
    trainer.node.refusals[run] = NoReservation(run)
    async with chatting(trainer, digest, run) as chat, refused("NO_RESERVATION"):
        await chat.rest()
    await over(trainer, run)


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "runs/chat9999999999999999-1"},
        {"node": "nodes/there"},
        {"spec_sha256": "0" * 64},
        {"exp": 1.0},
    ],
)
async def test_an_approval_of_something_else_is_refused(
    trainer: Trainer, digest: str, changed: dict[str, object]
) -> None:
    run = new_run()
    async with chatting(trainer, digest, run, signed=changed) as chat, refused("APPROVAL_REFUSED"):
        await chat.rest()
    assert run not in trainer.node.activations


async def test_one_reservation_holds_one_chat(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as first:
        await first.ready()
        async with chatting(trainer, digest, first.run) as second, refused("WRONG_STATE"):
            await second.rest()
        assert await first.ask("still here") == "still here "


async def test_a_chat_opens_once(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat._send(opening=chat_opening(chat))
        async with refused("INVALID_REQUEST"):
            await chat.rest()
    await over(trainer, chat.run)


async def test_only_the_user_speaks(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        message = chat_pb2.ChatMessage(role=chat_pb2.CHAT_ROLE_ASSISTANT, content="yes, I said that")
        chat._send(message=message)
        async with refused("INVALID_REQUEST"):
            await chat.rest()


async def test_a_message_has_a_largest_size(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        chat.say("x" * 262_145)
        async with refused("INVALID_REQUEST") as refusal:
            await chat.rest()
        assert "message.content" in refusal.message


async def test_the_node_hears_what_a_chat_uses(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        await chat.ask("use 12345")
        await eventually(lambda: (chat.run, "host", 12345) in trainer.node.used)


async def test_a_node_that_lost_its_journal_ends_the_chat(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        await chat.ask("use 1")
        trainer.node.usage_refusals[chat.run] = NoReservation(chat.run)
        async with refused("NO_RESERVATION"):
            await chat.rest()
    await over(trainer, chat.run)


async def test_a_release_that_fails_is_made_up_for(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        await trainer.node.stop()
    await eventually(lambda: not children(trainer))
    assert chat.run in trainer.node.active
    await trainer.node.start()
    await over(trainer, chat.run)


async def test_a_resting_chat_is_ended(trainer: Trainer, digest: str) -> None:
    await trainer.restart(WEIGHBRIDGE_CHAT_IDLE="0.6")
    try:
        async with chatting(trainer, digest) as chat:
            await chat.ready()
            async with refused("IDLE", Code.DEADLINE_EXCEEDED):
                await chat.rest()
        await over(trainer, chat.run)
    finally:
        await trainer.restart(WEIGHBRIDGE_CHAT_IDLE="600")


async def test_a_killed_trainer_leaves_nothing_running_and_nothing_reserved(
    trainer: Trainer, digest: str
) -> None:
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        await trainer.kill()
        # Its channel is closed with it, and either may be noticed first.
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await chat.rest()
    # Its children end with it; the memory stays held until somebody knows that.
    await eventually(lambda: not children(trainer))
    assert chat.run in trainer.node.active
    await trainer.start()
    await over(trainer, chat.run)
    assert not (trainer.state / "chats").exists()


async def test_a_trainer_that_stops_ends_its_chats_at_once(trainer: Trainer, digest: str) -> None:
    # A grace that nobody needs: a chat would go on for longer than any.
    await trainer.restart(WEIGHBRIDGE_GRACE="100")
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        await trainer.terminate()
        async with refused("DRAINING"):
            await chat.rest()
        assert chat.run in trainer.node.released
        assert not children(trainer)
    await trainer.start(WEIGHBRIDGE_GRACE="0")


async def test_runs_are_reconciled_beside_chats(trainer: Trainer, digest: str) -> None:
    # A run that is unknown here is given back; a chat that is open is not.
    async with chatting(trainer, digest) as chat:
        await chat.ready()
        trainer.node.active.add("runs/job77-1")
        await eventually(lambda: "runs/job77-1" in trainer.node.released)
        assert chat.run not in trainer.node.released
        assert await chat.ask("still here") == "still here "


def chat_opening(chat: Caller) -> service_pb2.ChatOpening:
    spec = chat_spec("sha256:" + "0" * 64)
    return service_pb2.ChatOpening(run=chat.run, approval=approval(chat.run, spec), resolved_spec=spec)
