"""What is told about the tokens of a data set: how long its rows are, what was cut and what was left out."""

from array import array
from collections import Counter, defaultdict
from typing import Any

import numpy as np

from services.trainer.work.text.encoding import Encoded

_NAMED_ROWS = 5


class TokenStatistics:
    """Counts rows as they are turned into tokens."""

    def __init__(self, max_length: int, duplicates: int) -> None:
        """Count for rows that are cut at `max_length` tokens, `duplicates` of which say what others do."""
        self.max_length = max_length
        self.duplicates = duplicates
        self.cut = self.learned = self.split_further = 0
        self.left_out: Counter[str] = Counter()
        """Rows that are not trained on, by why."""
        self._first_left_out: dict[str, list[str]] = defaultdict(list)
        self._lengths = array("I")

    def add(self, place: str, encoded: Encoded) -> None:
        """Count a row, which stands at `place`."""
        self._lengths.append(encoded.tokens)
        self.learned += encoded.learned
        self.cut += encoded.cut
        self.split_further += max(0, len(encoded.rows) - 1)
        if encoded.left_out:
            self.left_out[encoded.left_out] += 1
            if len(self._first_left_out[encoded.left_out]) < _NAMED_ROWS:
                self._first_left_out[encoded.left_out].append(place)

    @property
    def rows(self) -> int:
        """The rows of the file."""
        return len(self._lengths)

    @property
    def shortest(self) -> int:
        """The tokens of the shortest row."""
        return min(self._lengths, default=0)

    def facts(self) -> dict[str, Any]:
        """Return everything for `dataset.json`; lengths are in tokens, before anything was cut."""
        lengths = np.frombuffer(self._lengths, dtype=np.uint32)
        points = np.percentile(lengths, (0, 50, 95, 100), method="nearest") if len(lengths) else [0] * 4
        names = ("min", "median", "p95", "max")
        return {
            "rows": self.rows,
            "tokens": int(lengths.sum(dtype=np.int64)),
            "learned_tokens": self.learned,
            "tokens_per_row": {name: int(point) for name, point in zip(names, points, strict=True)},
            "max_length": self.max_length,
            "cut_rows": self.cut,
            "cut_share": self.cut / max(1, self.rows),
            "left_out": dict(self.left_out),
            "duplicates": self.duplicates,
        }

    def in_words(self) -> str:
        """Return the facts as a sentence."""
        facts = self.facts()
        each = facts["tokens_per_row"]
        parts = [
            f"{self.rows:,} rows, {facts['tokens']:,} tokens, {self.learned:,} of them learned; "
            f"{each['min']:,} to {each['max']:,} a row "
            f"(median {each['median']:,}, 95 % up to {each['p95']:,})"
        ]
        if self.cut:
            parts.append(f"{self.cut:,} ({facts['cut_share']:.1%}) are cut at {self.max_length:,}")
        if self.split_further:
            parts.append(f"long ones are divided into {self.split_further:,} more")
        if self.duplicates:
            parts.append(f"{self.duplicates:,} are copies of others")
        return "; ".join(parts)

    def losses_in_words(self) -> list[str]:
        """Return a sentence for each reason for which rows are left out, naming the first few."""
        return [
            f"{count:,} of {self.rows:,} rows are left out: {reason} ({self._named(reason, count)})"
            for reason, count in sorted(self.left_out.items())
        ]

    def _named(self, reason: str, count: int) -> str:
        named = ", ".join(self._first_left_out[reason])
        return f"{named} and {count - _NAMED_ROWS:,} more" if count > _NAMED_ROWS else named
