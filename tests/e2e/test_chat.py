"""Talking to what a job made: weighed before it loads, and nothing left of it however it ends."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.common.specs import Task
from tests.common.processes import ROOT
from tests.e2e.conftest import MakePlatform
from tests.e2e.made_jobs import made_job
from tests.e2e.platform import PATIENCE_S, Platform, eventually
from tests.trainer.chats.artifacts import SHAPE, write_artifact
from tests.trainer.chats.caller import MARK
from weighbridge.chat import Chat, ChatOptions
from weighbridge.exceptions import DoesNotFit, InvalidRequest, MustWait, NotFound, Unavailable, WrongState
from weighbridge.hardware.v1.service_pb2 import ListReservationsRequest
from weighbridge.hardware.v1.service_pb2_grpc import NodeServiceStub

GIB = 1 << 30
SCRIPTED = [sys.executable, str(ROOT / "tests" / "trainer" / "chats" / "scripted_child.py")]
CONFIG = {"model_type": "llama", **SHAPE}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("artifact")
    write_artifact(directory)
    return directory


@pytest.fixture(scope="module")
def platform(make_platform: MakePlatform) -> Platform:
    """A node with memory for one chat, and a child that needs no model: what is shown is the platform."""
    capacity = json.dumps({"host": 2 * GIB})
    return make_platform(WEIGHBRIDGE_CAPACITY_BYTES=capacity, WEIGHBRIDGE_CHAT_COMMAND=json.dumps(SCRIPTED))


@pytest.fixture(scope="module")
def job(platform: Platform, artifact: Path) -> str:
    return made_job(platform, artifact, CONFIG)


@pytest.fixture(autouse=True)
def nothing_left(platform: Platform) -> Iterator[None]:
    """After each test: no memory is reserved and no child lives."""
    yield
    eventually(lambda: not reserved(platform))
    assert not children(platform)


def reserved(platform: Platform) -> dict[str, int]:
    """Return run and host memory of every reservation on the node."""
    with platform.channel("hardware") as channel:
        request = ListReservationsRequest()
        listed = platform.call("gateway", NodeServiceStub(channel).ListReservations, request).reservations
    return {held.run: held.amounts[0].reserved_bytes for held in listed}


@contextmanager
def chatting(platform: Platform, job: str) -> Iterator[Chat]:
    """A chat, as soon as one can be had: what a test before has killed may only just be back."""
    with ExitStack() as stack:
        yield eventually(lambda: stack.enter_context(platform.client.chat(job)))


def children(platform: Platform) -> list[psutil.Process]:
    """Return the processes of chats."""
    root = str(platform.home.state_dir("trainer") / "chats")
    return [process for process in psutil.process_iter() if _mark(process).startswith(root)]


def _mark(process: psutil.Process) -> str:
    try:
        return "" if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK, "")
    except psutil.Error:
        return ""


def cli(platform: Platform, *arguments: str, **more: Any) -> "subprocess.Popen[str]":
    """Start the command."""
    environment = {**os.environ, "WEIGHBRIDGE_HOME": str(platform.home.root)}
    return subprocess.Popen(
        [sys.executable, "-m", "weighbridge.cli", *arguments],
        env=environment,
        stdin=more.get("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Ctrl-C is the terminal's to turn into a signal, so the terminal must be the command's own.
_IN_A_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "weighbridge.cli", *sys.argv[1:]])
"""


class Person:
    """Somebody in front of a terminal."""

    def __init__(self, command: "subprocess.Popen[bytes]", end: int) -> None:
        self.command = command
        self._end = end
        self._screen = ""

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self._end, keys.encode())

    def sees(self, expected: str) -> None:
        """Wait until something is on the screen, after what was seen before."""
        while expected not in self._screen:
            readable, _, _ = select.select([self._end], [], [], PATIENCE_S)
            assert readable, f"{expected!r} never came; on the screen: {self._screen!r}"
            self._screen += os.read(self._end, 1000).decode(errors="replace")
        self._screen = self._screen.partition(expected)[2]


@contextmanager
def terminal(platform: Platform, *arguments: str) -> Iterator[Person]:
    """Run the command in a terminal of its own."""
    mine, its = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-c", _IN_A_TERMINAL, *arguments],
        stdin=its,
        stdout=its,
        stderr=its,
        env={**os.environ, "WEIGHBRIDGE_HOME": str(platform.home.root), "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(its)
    try:
        yield Person(command, mine)
    finally:
        command.kill()
        command.wait()
        os.close(mine)


def test_memory_is_reserved_while_a_chat_lasts_and_free_after_it(platform: Platform, job: str) -> None:
    with platform.client.chat(job) as chat:
        assert reserved(platform) == {chat.ready.run: chat.ready.reserved_bytes}
        assert chat.ready.reserved_bytes > GIB
        assert chat.ready.context_tokens == 256
        assert chat.ready.summary.startswith(f"fits {chat.ready.node} now")
        assert list(chat.send("how are you")) == ["how ", "are ", "you "]
        assert chat.last_turn is not None
        assert chat.last_turn.completion_tokens == 3
        assert platform.client.nodes()[0].snapshot.name == chat.ready.node
    entry = next(iter(platform.client.admissions(job=job)))
    assert entry.summary.startswith("chat: fits")


def test_the_second_chat_is_told_who_has_the_memory(platform: Platform, job: str) -> None:
    with platform.client.chat(job) as chat:
        with pytest.raises(MustWait) as caught, platform.client.chat(job):
            pass
        assert chat.ready.run in str(caught.value), "it says who holds the memory"
        assert "GiB" in str(caught.value)
        assert list(chat.send("still here")) == ["still ", "here "]


def test_a_chat_that_never_fits_is_refused_with_figures(platform: Platform, artifact: Path) -> None:
    long = made_job(platform, artifact, {**CONFIG, "max_position_embeddings": 1_000_000})
    options = ChatOptions(context_tokens=100_000)
    with pytest.raises(DoesNotFit) as caught, platform.client.chat(long, options):
        pass
    assert "of host memory are needed, and jobs may have 2.0 GiB at most" in str(caught.value)
    assert "shorter context" in str(caught.value)


def test_a_context_beyond_the_model_is_refused(platform: Platform, job: str) -> None:
    with pytest.raises(InvalidRequest) as caught, platform.client.chat(job, ChatOptions(context_tokens=257)):
        pass
    assert "256 that the model can hold" in str(caught.value)


def test_only_finished_language_models_talk(platform: Platform, artifact: Path) -> None:
    classifier = made_job(platform, artifact, CONFIG, Task.IMAGE_CLASSIFICATION)
    unfinished = made_job(platform, None, CONFIG)
    for name, kind, words in (
        (classifier, WrongState, "jobs of sft and dpo"),
        (unfinished, WrongState, "without an artifact"),
        ("nosuchjob", NotFound, "does not exist"),
    ):
        with pytest.raises(kind) as caught, platform.client.chat(name):
            pass
        assert words in str(caught.value)


def test_an_artifact_without_weights_is_refused(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidRequest) as caught, platform.client.chat(made_job(platform, tmp_path, CONFIG)):
        pass
    assert "no whole model" in str(caught.value)


def test_an_answer_that_is_left_is_stopped(platform: Platform, job: str) -> None:
    with platform.client.chat(job) as chat:
        pieces = chat.send("hang")
        assert next(pieces) == "hanging "
        pieces.close()  # type: ignore[attr-defined]
        assert list(chat.send("again")) == ["again "]


def test_a_killed_caller_leaves_nothing(platform: Platform, job: str) -> None:
    command = cli(platform, "chat", job, "--message", "hang")
    assert command.stdout is not None
    assert command.stdout.read(7) == "hanging"
    assert reserved(platform)
    command.kill()
    command.communicate()


def test_a_killed_gateway_leaves_nothing(platform: Platform, job: str) -> None:
    with chatting(platform, job) as chat:
        pieces = chat.send("hang")
        next(pieces)
        platform.kill("gateway")
        with pytest.raises(Unavailable):
            list(pieces)
    platform.start("gateway")


def test_a_killed_trainer_leaves_nothing(platform: Platform, job: str) -> None:
    with chatting(platform, job) as chat:
        pieces = chat.send("hang")
        next(pieces)
        platform.kill("trainer")
        with pytest.raises(Unavailable):
            list(pieces)
        eventually(lambda: not children(platform))
    platform.start("trainer")


def test_a_restarted_hardware_service_changes_nothing(platform: Platform, job: str) -> None:
    with chatting(platform, job) as chat:
        platform.kill("hardware")
        assert list(chat.send("still here")) == ["still ", "here "]
        platform.start("hardware")
        assert list(reserved(platform)) == [chat.ready.run]
        assert list(chat.send("still here")) == ["still ", "here "]


def test_a_chat_that_ends_while_the_node_is_away_is_released_when_it_is_back(
    platform: Platform, job: str
) -> None:
    with chatting(platform, job) as chat:
        platform.kill("hardware")
    eventually(lambda: not children(platform))
    platform.start("hardware")
    eventually(lambda: chat.ready.run not in reserved(platform))


def test_a_killed_child_ends_the_chat(platform: Platform, job: str) -> None:
    from weighbridge.exceptions import CallError

    with chatting(platform, job) as chat:
        (child,) = children(platform)
        child.kill()
        with pytest.raises(CallError) as caught:
            list(chat.send("hello"))
        assert caught.value.reason == "WORKER_LOST"


def test_the_dispatcher_leaves_a_chat_alone(platform: Platform, job: str) -> None:
    """What would be lost: a conversation, as a run that no job needs, after three reports of the node."""
    with chatting(platform, job) as chat:
        beats = platform.client.nodes()[0].heartbeat_time.seconds
        eventually(lambda: platform.client.nodes()[0].heartbeat_time.seconds > beats + 20)
        assert list(chat.send("still here")) == ["still ", "here "]


def test_a_script_says_several_things_and_reads_json(platform: Platform, job: str) -> None:
    command = cli(platform, "chat", job, "-m", "one two", "-m", "three", "--json")
    output, errors = command.communicate()
    assert command.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    assert [next(iter(line)) for line in lines] == [
        *("ready", "text", "text", "turn_end", "text", "turn_end"),
    ]


def test_a_message_can_be_piped(platform: Platform, job: str) -> None:
    command = cli(platform, "chat", job)
    output, errors = command.communicate("good\nmorning\n")
    assert (command.returncode, output) == (0, "good morning \n"), errors
    assert "256 tokens of context" in errors


def test_a_person_types_stops_and_goes_on(platform: Platform, job: str) -> None:
    with terminal(platform, "chat", job) as person:
        person.sees("> ")
        person.types("good morning\n")
        person.sees("good morning \r\n")
        person.sees("2 tokens")
        person.sees("> ")
        person.types("hang\n")
        person.sees("hanging")
        person.types("\x03")
        person.sees("stopped")
        person.sees("> ")
        person.types("refuse\n")
        person.sees("error: too long")
        # Typed before anybody asks, the end of the input would be nobody's.
        person.sees("> ")
        person.types("\x04")
        assert person.command.wait() == 0


def test_ctrl_c_stops_the_answer(platform: Platform, job: str) -> None:
    command = cli(platform, "chat", job, "-m", "hang")
    assert command.stdout is not None
    assert command.stdout.read(7) == "hanging"
    command.send_signal(signal.SIGINT)
    command.communicate()
    assert command.returncode == 130


@pytest.mark.parametrize(("arguments", "status"), [(["--context", "257"], 2), (["--device", "tpu"], 2)])
def test_the_exit_status_says_what_was_wrong(
    platform: Platform, job: str, arguments: list[str], status: int
) -> None:
    command = cli(platform, "chat", job, "-m", "hello", *arguments)
    command.communicate()
    assert command.returncode == status
