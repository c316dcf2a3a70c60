"""Conversations in every spelling, and what is none."""

import json
from datetime import date
from typing import Any

import pytest

from services.common.text.rows import BadRow, convert, recognise


def converted(row: dict[str, Any]) -> dict[str, Any]:
    fmt = recognise(row.keys())
    assert fmt is not None
    return convert(row, fmt)


def messages(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def refused(row: dict[str, Any]) -> BadRow:
    with pytest.raises(BadRow) as caught:
        converted(row)
    return caught.value


ASK = {"role": "user", "content": "ask"}
ANSWER = {"role": "assistant", "content": "answer"}


def test_sharegpt_roles_are_not_printed_into_the_training_text() -> None:
    row = {
        "system": "be kind",
        "conversations": [
            {"from": "human", "value": "ask"},
            {"from": "gpt", "value": "answer"},
            {"from": "observation", "value": "5"},
            {"from": "GPT", "value": "more"},
        ],
    }
    assert [turn["role"] for turn in converted(row)["messages"]] == [
        *("system", "user", "assistant", "tool", "assistant")
    ]


def test_roles_of_other_spellings_in_messages_are_converted_too() -> None:
    row = messages({"role": "human", "content": "ask"}, {"role": "bot", "content": "answer"})
    assert converted(row)["messages"] == [ASK, ANSWER]


def test_conversations_with_roles_and_contents_are_messages() -> None:
    assert converted({"conversations": [ASK, ANSWER]})["messages"] == [ASK, ANSWER]


def test_parts_of_text_are_joined_and_not_trained_on_as_python() -> None:
    parts = [{"type": "text", "text": "an"}, {"type": "text", "text": "swer"}]
    assert converted(messages(ASK, {"role": "assistant", "content": parts}))["messages"] == [ASK, ANSWER]


def test_pictures_in_a_conversation_are_refused() -> None:
    error = refused(messages({"role": "user", "content": [{"type": "image"}]}, ANSWER))
    assert (error.column, error.actual) == ("messages[0].content[0]", "a part of type image")


def test_fields_that_parquet_fills_with_null_are_left_out() -> None:
    turn = {**ANSWER, "tool_calls": None, "name": None, "tool_call_id": None}
    assert converted(messages(ASK, turn))["messages"] == [ASK, ANSWER]


def test_a_conversation_in_a_cell_of_csv_is_read_as_one() -> None:
    assert converted({"messages": json.dumps([ASK, ANSWER])})["messages"] == [ASK, ANSWER]
    sides = {"prompt": json.dumps([ASK]), "completion": json.dumps(ANSWER)}
    assert converted(sides) == {"prompt": [ASK], "completion": [ANSWER]}


def test_text_that_only_looks_like_json_stays_text() -> None:
    sides = {"prompt": "[1, 2", "completion": '{"role": 1}'}
    assert converted(sides) == sides


def test_a_call_may_stand_without_words_and_its_arguments_are_an_object() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}
    row = messages(ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, tools="[]")
    turn = converted(row)["messages"][1]
    assert turn["content"] == ""
    function = {"name": "add", "arguments": {"a": 1}}
    assert turn["tool_calls"] == [{"id": "1", "type": "function", "function": function}]


def test_sharegpts_calls_become_calls() -> None:
    value = json.dumps({"name": "add", "arguments": {"a": 1}})
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]}
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    assert converted(row)["messages"][1] == {"role": "assistant", "content": "", "tool_calls": calls}


def test_tools_and_thoughts_are_kept() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"a": None}}}
    row = messages(ASK, {**ANSWER, "reasoning_content": "hm"}, tools=json.dumps([tool]))
    made = converted(row)
    assert made["tools"] == [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    assert made["messages"][1]["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("row", "column", "actual"),
    [
        (messages(), "messages", "an empty list"),
        ({"messages": None}, "messages", "nothing (null)"),
        ({"messages": "hello"}, "messages", "the text 'hello'"),
        (messages("hello"), "messages[0]", "the text 'hello'"),
        (messages(ASK), "messages", "turns of user only"),
        (messages(ASK, {"role": "alien", "content": "x"}), "messages[1].role", "the text 'alien'"),
        (messages({"content": "x"}), "messages[0].role", "a turn with content"),
        (messages({"role": "user"}, ANSWER), "messages[0].content", "nothing (null)"),
        (messages({"role": "user", "content": ""}, ANSWER), "messages[0].content", "an empty text"),
        (messages(ASK, {"role": "assistant", "content": 4}), "messages[1].content", "a number (4)"),
        (messages(ASK, {"role": "assistant", "content": None}), "messages[1].content", "nothing (null)"),
        (messages(ASK, {**ANSWER, "tool_calls": 3}), "messages[1].tool_calls", "a number (3)"),
        (messages(ASK, {**ANSWER, "tool_calls": [{}]}), "messages[1].tool_calls[0]", "an empty object"),
        (messages(ASK, ANSWER, tools="add"), "tools", "the text 'add'"),
        (messages(ASK, ANSWER, tools=[1]), "tools", "a list of 1"),
        (messages(ASK, ANSWER, tools=[{"a": date(2020, 1, 1)}]), "tools", "Object of type date"),
        (messages(ASK, ANSWER, tools=[{"a": "\ud83d"}]), "tools", "half of a surrogate pair"),
        ({"conversations": [{"from": "x", "value": "y"}]}, "conversations[0].from", "the text 'x'"),
    ],
)
def test_what_is_no_conversation_is_named(row: dict[str, Any], column: str, actual: str) -> None:
    error = refused(row)
    assert error.column == column
    assert actual in error.actual


def test_a_system_prompt_and_a_tools_answer_may_be_empty() -> None:
    turns = [{"role": "system", "content": ""}, ASK, {"role": "tool", "content": ""}, ANSWER]
    assert converted(messages(*turns))["messages"] == turns


def test_what_is_nested_without_end_is_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"a": deep}
    assert "some hundred levels" in refused(messages(ASK, ANSWER, tools=[deep])).limit
