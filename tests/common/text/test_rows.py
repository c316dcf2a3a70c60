"""Rows in every spelling become the four canonical shapes, or are refused by column."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.specs import RowShape
from services.common.text.rows import BadRow, convert, recognise, unrecognised, used_columns

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
COLUMNS = st.sampled_from(
    [
        *("text", "messages", "tools", "prompt", "completion", "chosen", "rejected"),
        *("conversations", "instruction", "input", "output", "system", "history"),
    ]
)
TURN = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "gpt"]), "content": JSON})


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def converted(row: dict[str, Any], text_field: str = "text") -> dict[str, Any]:
    fmt = recognise(row.keys(), text_field)
    assert fmt is not None
    return convert(row, fmt, text_field)


def refused(row: dict[str, Any], text_field: str = "text") -> BadRow:
    with pytest.raises(BadRow) as caught:
        converted(row, text_field)
    return caught.value


@pytest.mark.parametrize(
    ("columns", "shape", "source"),
    [
        (["text"], RowShape.TEXT, "text"),
        (["messages", "text"], RowShape.MESSAGES, "messages"),
        (["prompt", "completion", "id"], RowShape.PROMPT_COMPLETION, "prompt_completion"),
        (["prompt", "chosen", "rejected", "messages"], RowShape.PREFERENCE, "preference"),
        (["chosen", "rejected"], RowShape.PREFERENCE, "preference"),
        (["instruction", "input", "output", "text"], RowShape.PROMPT_COMPLETION, "alpaca"),
        (["instruction", "output"], RowShape.PROMPT_COMPLETION, "alpaca"),
        (["instruction", "chosen", "rejected"], RowShape.PREFERENCE, "alpaca_preference"),
        (["conversations", "id"], RowShape.MESSAGES, "sharegpt"),
        (["conversations", "chosen", "rejected"], RowShape.PREFERENCE, "sharegpt_preference"),
    ],
)
def test_columns_tell_the_spelling(columns: list[str], shape: RowShape, source: str) -> None:
    found = recognise(columns)
    assert found is not None
    assert (found.shape, found.source) == (shape, source)


def test_a_column_that_a_spec_names_wins_over_what_else_is_there() -> None:
    row = {"messages": [user("a"), assistant("b")], "content": "plain"}
    assert converted(row, "content") == {"text": "plain"}
    assert converted(row) == {"messages": row["messages"]}
    assert recognise(["content"]) is None


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["question", "answer"], "'question' as prompt, 'answer' as completion"),
        (["Messages"], "'Messages' as messages"),
        (["prompt;completion"], "separate columns by commas"),
        (["a", "b"], "found a, b"),
    ],
)
def test_columns_that_say_nothing_get_the_nearest_thing_that_works(columns: list[str], hint: str) -> None:
    assert recognise(columns) is None
    assert hint in str(unrecognised(columns))


def test_columns_that_are_used_are_known_before_a_row_is_read() -> None:
    fmt = recognise(["prompt", "completion"])
    assert fmt is not None
    assert used_columns(fmt) == {"prompt", "completion", "tools"}
    text = recognise(["body"], "body")
    assert text is not None
    assert used_columns(text, "body") == {"body"}


def test_alpaca_becomes_a_prompt_and_its_completion() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    assert converted(row) == {"prompt": [user("Add.\n\n1, 2")], "completion": [assistant("3")]}
    assert converted({**row, "input": ""})["prompt"] == [user("Add.")]
    assert converted({**row, "input": None})["prompt"] == [user("Add.")]


def test_alpacas_system_prompt_and_history_are_not_lost() -> None:
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    system = {"role": "system", "content": "s"}
    assert converted(row)["prompt"] == [system, user("a"), assistant("b"), user("c")]


def test_alpaca_preferences_do_not_lose_their_instruction() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "chosen": "3", "rejected": "4"}
    assert converted(row) == {
        "prompt": [user("Add.\n\n1, 2")],
        "chosen": [assistant("3")],
        "rejected": [assistant("4")],
    }


def test_sharegpt_preferences() -> None:
    row = {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "good"},
        "rejected": {"from": "gpt", "value": "bad"},
    }
    assert converted(row) == {
        "prompt": [user("q")],
        "chosen": [assistant("good")],
        "rejected": [assistant("bad")],
    }


@pytest.mark.parametrize(
    ("row", "column", "actual"),
    [
        ({"text": None}, "text", "nothing (null)"),
        ({"text": ""}, "text", "an empty text"),
        ({"text": " \n"}, "text", "only white space"),
        ({"text": 5}, "text", "a number (5)"),
        ({"text": True}, "text", "true"),
        ({"text": ["a"]}, "text", "a list of 1"),
        ({"text": b"a"}, "text", "a value of type bytes"),
        ({"text": "\ud83d!"}, "text", "half of a surrogate pair at character 1"),
        ({"prompt": "a", "completion": ""}, "completion", "an empty text"),
        ({"prompt": "a", "completion": None}, "completion", "nothing (null)"),
        ({"prompt": "a", "completion": [assistant("b")]}, "completion", "a conversation"),
        ({"prompt": [user("a")], "completion": "b"}, "completion", "text"),
        ({"instruction": "a", "output": ""}, "output", "an empty text"),
        ({"instruction": "a", "output": "b", "input": 3}, "input", "a number (3)"),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, "history[0]", "a list of 1"),
    ],
)
def test_a_bad_value_is_named_with_its_column(row: dict[str, Any], column: str, actual: str) -> None:
    error = refused(row)
    assert (error.column, error.actual) == (column, actual)


def test_a_row_of_another_shape_is_told_what_it_lacks() -> None:
    fmt = recognise(["prompt", "completion"])
    assert fmt is not None
    with pytest.raises(BadRow, match="column prompt: a value in every row, but found a row with messages"):
        convert({"messages": []}, fmt)


def test_an_error_says_where_and_what() -> None:
    error = refused({"text": None}).at("line 17")
    assert str(error) == "line 17, column text: text, but found nothing (null)"
    assert error.item == "line 17, column text"


@given(WORDS, WORDS, WORDS)
def test_whatever_alpaca_says_is_kept(instruction: str, more: str, output: str) -> None:
    made = converted({"instruction": instruction, "input": more, "output": output})
    assert made["prompt"] == [user(f"{instruction}\n\n{more}")]
    assert made["completion"] == [assistant(output)]


@given(st.dictionaries(COLUMNS, JSON | st.lists(TURN, max_size=3)))
def test_any_row_is_converted_or_refused_and_what_was_converted_stays_as_it_is(row: dict[str, Any]) -> None:
    fmt = recognise(row.keys())
    if fmt is None:
        return
    try:
        made = convert(row, fmt)
    except BadRow:
        return
    again = recognise(made.keys())
    assert again is not None
    assert again.shape == fmt.shape
    assert convert(made, again) == made
