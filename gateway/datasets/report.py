"""What a file of text holds: its rows counted, measured and compared, in little memory for each."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from gateway.datasets.limits import Broken, Limits
from services.common.specs import RowShape, TextStatistics
from services.common.text.rows import TEXT_FIELD, BadRow, RowFormat

_SPELLED = {
    "alpaca": "rows spelled as Alpaca's (instruction, input, output) are read as prompt and completion, "
    "the turns of a conversation",
    "alpaca_preference": "instruction and input are read as the prompt, a turn of the user",
    "sharegpt": "rows spelled as ShareGPT's (conversations) are read as messages, with the roles user "
    "and assistant",
    "sharegpt_preference": "rows spelled as ShareGPT's (conversations) are read as prompts, with the roles "
    "user and assistant",
}
# A row is long for its data when it is so many times the row in the middle, and not short anyway.
_LONG_RATIO, _LONG_CHARACTERS = 20, 20_000
_SHOWN = 5


class TextReport:
    """Gathers what the rows of a file are like."""

    def __init__(self, limits: Limits, format: RowFormat, text_field: str, ignored: Iterable[str]) -> None:
        self.format = format
        self.text_field = text_field
        self._limits = limits
        self._ignored = list(ignored)
        self._seen: set[int] = set()
        self._lengths: Counter[int] = Counter()
        self._count = 0
        self._unpacked_bytes = 0
        self._longest = (0, "")
        self._duplicates = _Places()
        self._same_answers = _Places()
        self._unanswered = _Places()
        self._implied = 0
        self._conversational: bool | None = None

    def add(self, where: str, row: Mapping[str, Any], canonical: Mapping[str, Any]) -> None:
        """Take in a row and what it was converted into.

        Raises:
            BadRow: it is of another kind than the rows before it.
            Broken: it, or the file with it, is larger than allowed.
        """
        self._count += 1
        self._check_kind(canonical)
        texts = list(_texts(canonical))
        self._measure(where, texts)
        # 64 bits, salted in each process: a repeat is told from a chance by far.
        key = hash(tuple(texts))
        if key in self._seen:
            self._duplicates.add(where)
        self._seen.add(key)
        if self.format.shape == RowShape.PREFERENCE:
            self._implied += row.get("prompt") is None and self.format.source == "preference"
            if canonical["chosen"] == canonical["rejected"]:
                self._same_answers.add(where)
        turns = canonical.get("messages")
        if turns and turns[-1]["role"] != "assistant":
            self._unanswered.add(where)

    def facts(self) -> dict[str, Any]:
        """Return what a DatasetSummary says of text. Raises Broken where it can teach nothing."""
        if not self._count:
            raise Broken("the file", "at least one row", "none")
        if self._same_answers.count == self._count:
            raise Broken("the file", "answers that are preferred to others", "chosen and rejected alike")
        statistics = TextStatistics(
            min_characters=min(self._lengths),
            median_characters=self._percentile(50),
            p95_characters=self._percentile(95),
            max_characters=max(self._lengths),
            duplicate_count=self._duplicates.count,
            conversational=bool(self._conversational),
            text_column=self.text_field if self.format.shape is RowShape.TEXT else "",
        )
        return {
            "example_count": self._count,
            "unpacked_bytes": self._unpacked_bytes,
            "row_shape": self.format.shape,
            "text": asdict(statistics),
            "warnings": list(self._warnings(statistics)),
        }

    def _check_kind(self, canonical: Mapping[str, Any]) -> None:
        column = next(iter(canonical))
        conversational = isinstance(canonical[column], list)
        if self._conversational is None:
            self._conversational = conversational
        if conversational != self._conversational:
            kinds = ("text", "a conversation")
            raise BadRow(column, f"{kinds[self._conversational]}, as in the first row", kinds[conversational])

    def _measure(self, where: str, texts: list[str]) -> None:
        characters = sum(map(len, texts))
        size_bytes = sum(len(text) if text.isascii() else len(text.encode()) for text in texts)
        self._unpacked_bytes += size_bytes
        self._lengths[characters] += 1
        self._longest = max(self._longest, (characters, where), key=lambda each: each[0])
        limits = self._limits
        if self._count > limits.max_rows:
            raise Broken("the file", f"at most {limits.max_rows} rows", "more")
        if size_bytes > limits.max_item_bytes:
            raise Broken(where, f"at most {limits.max_item_bytes} bytes of text in a row", f"{size_bytes}")
        if self._unpacked_bytes > limits.max_unpacked_bytes:
            raise Broken("the file", f"at most {limits.max_unpacked_bytes} bytes of text", "more")

    def _percentile(self, percent: int) -> int:
        """Return the length that `percent` of 100 rows are no longer than (the nearest rank)."""
        rank, passed = -(-self._count * percent // 100), 0
        for length in sorted(self._lengths):
            passed += self._lengths[length]
            if passed >= rank:
                return length
        return 0

    def _warnings(self, statistics: TextStatistics) -> Iterator[str]:
        if self.text_field != TEXT_FIELD:
            yield f"the column {self.text_field} is taken for plain text"
        if self.format.source in _SPELLED:
            yield _SPELLED[self.format.source]
        if self._implied:
            rows = f"{self._implied} of {self._count} rows have no prompt"
            yield f"{rows}: it is taken to be what chosen and rejected begin with"
        if self._ignored:
            names = ", ".join(name or "(no name)" for name in self._ignored[:_SHOWN])
            more = f" and {len(self._ignored) - _SHOWN} more" if len(self._ignored) > _SHOWN else ""
            yield f"columns that nothing is read from: {names}{more}"
        if self._duplicates.count:
            share = 100 * self._duplicates.count / self._count
            yield f"{share:.2g} % of the rows repeat an earlier one word for word: {self._duplicates}"
        if self._same_answers.count:
            yield f"chosen and rejected are the same, which teaches nothing: {self._same_answers}"
        if self._unanswered.count:
            yield f"conversations that end before the assistant answers: {self._unanswered}"
        characters, where = self._longest
        ratio = characters / max(1, statistics.median_characters)
        if ratio >= _LONG_RATIO and characters >= _LONG_CHARACTERS:
            yield f"{where} has {characters} characters, {ratio:.0f} times as many as the row in the middle"


class _Places:
    """How many rows something is the case in, and where the first ones are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, where: str) -> None:
        """Count a row."""
        self.count += 1
        if len(self._first) < _SHOWN:
            self._first.append(where)

    def __str__(self) -> str:
        more = ", …" if self.count > len(self._first) else ""
        return f"{self.count} ({', '.join(self._first)}{more})"


def _texts(canonical: Mapping[str, Any]) -> Iterator[str]:
    """Yield a row's texts: what a model reads of it, without the names of roles and columns."""
    for value in canonical.values():
        if isinstance(value, str):
            yield value
        else:
            for turn in value:
                yield from _texts_of(turn)


def _texts_of(turn: Mapping[str, Any]) -> Iterator[str]:
    yield turn.get("content", "")
    for key in ("reasoning_content", "thinking"):
        if key in turn:
            yield turn[key]
    calls = turn.get("tool_calls") or ("content" not in turn and turn)
    if calls:
        yield json.dumps(calls, ensure_ascii=False)
