"""What the demo teaches a language model about this platform is what the platform does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from demo import text
from gateway.datasets.check_text import check
from gateway.datasets.limits import Limits
from services.common.specs import DatasetFormat
from weighbridge.cli.app import app
from weighbridge.cli.exits import Exit
from weighbridge.following import State

LIMITS = Limits(
    max_items=1000,
    max_rows=1000,
    max_unpacked_bytes=1 << 20,
    max_item_bytes=1 << 20,
    max_ratio=100,
    max_pixels=1,
    memory_bytes=1 << 30,
    timeout_s=60,
)
# What the last words of a fact's commands stand for.
PLACEHOLDERS = {"FILE", "SPEC", "JOB", "FOLDER", "MODEL"}


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (text.DATA / f"{name}.jsonl").read_text().splitlines()]


def facts() -> dict[str, str]:
    """Return the answer to every question of the instructions."""
    pairs = (row["messages"] for row in rows("instructions"))
    return {question["content"]: answer["content"] for question, answer in pairs}


def answers() -> set[str]:
    """Return everything that a model is to say."""
    return set(facts().values()) | {row["chosen"][0]["content"] for row in rows("preferences")}


def commands() -> Iterator[list[str]]:
    """Yield the commands in the answers, in words, without `weighbridge`."""
    for answer in answers():
        for found in re.findall(r"(?:^|: |of )weighbridge ([a-zA-Z -]+)", answer):
            yield found.split()


@pytest.mark.parametrize(("name", "shape"), [("instructions", "messages"), ("preferences", "preference")])
def test_the_data_passes_the_check_without_a_remark(name: str, shape: str) -> None:
    found = check(text.DATA / f"{name}.jsonl", LIMITS, DatasetFormat.JSONL)
    assert found["row_shape"] == shape
    assert found["warnings"] == []


def test_every_question_is_asked_once() -> None:
    assert len(facts()) == len(rows("instructions"))


def test_every_fact_has_several_phrasings() -> None:
    # A command alone is one more answer to a question that a sentence answers, too: DPO has to choose.
    for answer in {answer for answer in facts().values() if not answer.startswith("weighbridge ")}:
        assert sum(other == answer for other in facts().values()) >= 3, answer


def test_every_command_in_an_answer_is_one() -> None:
    found = list(commands())
    assert len(found) > 10
    for words in found:
        command: Any = get_command(app)
        while words and isinstance(command, typer.core.TyperGroup):
            name = words.pop(0)
            assert name in command.commands, f"weighbridge {name}"
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in words:
            if word.startswith("--"):
                assert word in options, (command.name, word)
            elif word not in PLACEHOLDERS:
                break


def test_the_states_of_a_job_are_those_of_the_contract() -> None:
    told = set(re.findall(r"[A-Z]{6,}", facts()["Which states does a job have?"]))
    known = {name.removeprefix("STATE_") for name in State.keys()}  # noqa: SIM118 - an enum's wrapper
    assert told == known - {"UNSPECIFIED", "CANCELLING"}


def test_the_exit_codes_are_those_of_the_command() -> None:
    told = facts()["What are the exit codes of weighbridge check?"]
    for word, code in (("ADMIT", Exit.OK), ("WAIT", Exit.MUST_WAIT), ("REJECT", Exit.DOES_NOT_FIT)):
        assert f"{int(code)} for {word}" in told


def test_what_the_demo_asks_stands_in_the_data_in_other_words_only() -> None:
    asked = set(text.QUESTIONS)
    assert not asked & set(facts())
    assert not asked & {row["prompt"][0]["content"] for row in rows("preferences")}


def test_the_demos_model_is_the_one_that_its_example_names() -> None:
    spec = (Path(__file__).resolve().parents[1] / "examples" / "smollm2-lora.yaml").read_text()
    assert f"gguf: {text.MODEL}" in spec
