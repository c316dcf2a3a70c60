"""The child of a chat with real models, tiny and random: each call loads one, so each says a lot."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.common.errors import Code
from tests.trainer.chats.artifacts import write_artifact, write_tokenizer
from tests.trainer.chats.caller import Caller, chatting, children
from tests.trainer.harness import Trainer, eventually, refused, trainer_at
from weighbridge.common.v1 import chat_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def trainer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trainer]:
    async with trainer_at(tmp_path_factory.mktemp("talking")) as started:
        yield started


@pytest.fixture(scope="module")
def digest(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("llama")
    write_artifact(directory, max_position_embeddings=32_768)
    return trainer.store.put_tree(directory).digest


async def tokens(chat: Caller, text: str) -> tuple[str, int, int]:
    """Say something; return the answer and how many tokens were read and written."""
    chat.say(text)
    answer, end = await chat.turn()
    assert end.finish_reason == chat_pb2.FINISH_REASON_LENGTH
    return answer, end.prompt_tokens, end.completion_tokens


async def test_a_conversation_is_remembered_limited_and_stopped(trainer: Trainer, digest: str) -> None:
    options = chat_pb2.GenerationOptions(max_new_tokens=20, seed=3)
    async with chatting(trainer, digest, context_tokens=300, options=options) as chat:
        assert list((await chat.ready()).notices) == []
        first = await tokens(chat, "hello")
        # <system>be kind<end><user>hello<end><assistant>, a token a byte and one for each end.
        assert first[1:] == (len("<system>be kind<user>hello<assistant>") + 2, 20)
        second = await tokens(chat, "hello")
        assert second[1] > first[1] + 20, "it reads what was said before, its own answer included"
        chat.say("x" * 300)
        refusal = (await chat.next()).refusal
        assert (refusal.reason, refusal.metadata["limit"]) == ("PROMPT_TOO_LONG", "300")
        third = await tokens(chat, "hello")
        assert third[1] > second[1], "the refused message is not part of it"
        await eventually(lambda: (chat.run, "host") in {used[:2] for used in trainer.node.used})


async def test_the_same_seed_gives_the_same_answers_and_a_stop_comes_in_mid_answer(
    trainer: Trainer, digest: str
) -> None:
    options = chat_pb2.GenerationOptions(max_new_tokens=30_000, temperature=1.5, seed=3)
    begun = []
    for _ in range(2):
        async with chatting(trainer, digest, context_tokens=32_768, options=options) as chat:
            await chat.ready()
            chat.say("hello")
            text = ""
            while len(text) < 50:
                text += (await chat.next()).text
            begun.append(text[:50])
            chat.stop()
            _, end = await chat.turn()
            assert end.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
            assert 0 < end.completion_tokens < 30_000
    assert begun[0] == begun[1]


async def test_without_a_chat_template_a_message_is_continued_and_that_is_said(
    trainer: Trainer, tmp_path: Path
) -> None:
    write_artifact(tmp_path, template="")
    options = chat_pb2.GenerationOptions(max_new_tokens=5, temperature=0)
    async with chatting(trainer, trainer.store.put_tree(tmp_path).digest, options=options) as chat:
        assert "no chat template" in (await chat.ready()).notices[0]
        answer, read, written = await tokens(chat, "hello")
        assert (read, written) == (len("be kind\n\nhello"), 5)
        assert await tokens(chat, "hello") == (answer, read, written), "greedy, and nothing is remembered"
        # What the context leaves ends an answer too.
        assert (await tokens(chat, "x" * (256 - len("be kind\n\n") - 3)))[1:] == (253, 3)


async def test_an_artifact_that_is_no_language_model_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    async with chatting(trainer, trainer.store.put_tree(tmp_path).digest) as chat:
        async with refused("INVALID_MODEL", Code.INVALID_ARGUMENT) as refusal:
            await chat.ready()
        assert "cannot be loaded as a language model" in refusal.message
        assert str(trainer.directory) not in refusal.message, "the node's own paths are nobody's business"


async def test_a_chat_that_needs_more_than_it_reserved_fails_itself(trainer: Trainer, digest: str) -> None:
    async with chatting(trainer, digest, signed={"amounts": {"host": 100 * MIB}}) as chat:
        async with refused("MEMORY_OVERRUN", Code.ABORTED) as refusal:
            await chat.ready()
        assert "with 100 MiB reserved" in refusal.message
    await eventually(lambda: not children(trainer))
