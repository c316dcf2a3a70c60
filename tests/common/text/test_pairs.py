"""Preferences with and without a prompt, and answers that repeat it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.text.rows import BadRow, convert, recognise

WORDS = st.lists(st.text("abc", min_size=1), min_size=1, max_size=4).map(" ".join)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def preferred(chosen: Any, rejected: Any, prompt: Any = None) -> dict[str, Any]:
    row = {"chosen": chosen, "rejected": rejected, **({} if prompt is None else {"prompt": prompt})}
    fmt = recognise(row.keys())
    assert fmt is not None
    return convert(row, fmt)


def refused(chosen: Any, rejected: Any, prompt: Any = None) -> BadRow:
    with pytest.raises(BadRow) as caught:
        preferred(chosen, rejected, prompt)
    return caught.value


GOOD, BAD = [user("q"), assistant("good")], [user("q"), assistant("bad")]
CANONICAL = {"prompt": [user("q")], "chosen": [assistant("good")], "rejected": [assistant("bad")]}


def test_a_prompt_that_conversations_begin_with_is_made_explicit() -> None:
    assert preferred(GOOD, BAD) == CANONICAL


def test_a_prompt_that_answers_repeat_is_not_trained_on_twice() -> None:
    assert preferred(GOOD, BAD, [user("q")]) == CANONICAL
    assert preferred(GOOD, BAD[1:], [user("q")]) == CANONICAL
    texts = preferred("Why? So.", "Why? No.", "Why?")
    assert texts == {"prompt": "Why?", "chosen": " So.", "rejected": " No."}


def test_a_prompt_of_text_beside_whole_conversations_is_their_first_question() -> None:
    assert preferred(GOOD, BAD, "q") == CANONICAL


def test_answers_that_only_begin_like_a_short_prompt_are_not_cut() -> None:
    row = {"prompt": "A", "chosen": "Apple", "rejected": "Avocado"}
    assert preferred("Apple", "Avocado", "A") == row
    assert preferred("Why? So.", "No.", "Why?")["chosen"] == "Why? So."


def test_a_prompt_of_text_ends_with_a_word() -> None:
    made = preferred("The sky is blue.", "The sky is black.")
    assert made == {"prompt": "The sky is", "chosen": " blue.", "rejected": " black."}


def test_the_longer_of_two_answers_keeps_its_end() -> None:
    made = preferred([*GOOD, user("more"), assistant("yes")], GOOD)
    assert made["prompt"] == [user("q")]
    assert made["rejected"] == [assistant("good")]
    assert preferred("a b c", "a b")["rejected"] == " b"


def test_answers_that_are_alike_are_left_to_be_counted() -> None:
    made = preferred(GOOD, GOOD)
    assert made["chosen"] == made["rejected"] == [assistant("good")]
    assert preferred("x", "x", "q")["chosen"] == "x"


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "column", "actual"),
    [
        ("blue", "green", None, "prompt", "answers that begin differently"),
        (GOOD[1:], BAD[1:], None, "prompt", "answers that begin differently"),
        (GOOD[1:], BAD[1:], "q", "prompt", "text"),
        ("good", "bad", [user("q")], "chosen", "text"),
        (GOOD, "bad", None, "rejected", "text"),
        ("good", "bad", "", "prompt", "an empty text"),
        (GOOD, BAD, [], "prompt", "an empty list"),
        ("", "bad", "q", "chosen", "an empty text"),
        ("good", None, "q", "rejected", "nothing (null)"),
        ("q?", "q? no", "q?", "chosen", "the prompt alone"),
        ([*GOOD, user("r")], BAD, GOOD, "chosen", "the prompt alone"),
        ([user("q")], BAD, None, "chosen", "turns of user only"),
    ],
)
def test_pairs_that_are_none(chosen: Any, rejected: Any, prompt: Any, column: str, actual: str) -> None:
    error = refused(chosen, rejected, prompt)
    assert (error.column, error.actual) == (column, actual)


def test_a_completion_that_repeats_its_conversation_is_cut_and_one_of_text_is_not() -> None:
    fmt = recognise(["prompt", "completion"])
    assert fmt is not None
    made = convert({"prompt": [user("q")], "completion": GOOD}, fmt)
    assert made == {"prompt": [user("q")], "completion": [assistant("good")]}
    text = {"prompt": "Say hi", "completion": "Say hi yourself"}
    assert convert(text, fmt) == text


@given(WORDS, WORDS, WORDS)
def test_no_letter_of_an_answer_is_lost(prompt: str, chosen: str, rejected: str) -> None:
    whole = f"{prompt} {chosen}", f"{prompt} {rejected}"
    made = preferred(*whole)
    assert (made["prompt"] + made["chosen"], made["prompt"] + made["rejected"]) == whole
    assert made["prompt"].startswith(prompt.rpartition(" ")[0])
    assert all(made[column].strip() for column in ("chosen", "rejected"))
