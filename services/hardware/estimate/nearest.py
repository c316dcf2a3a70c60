"""What somebody may have meant."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Return the known words that look most like `word`, best first."""
    return difflib.get_close_matches(word, list(known), n=most, cutoff=0.6)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean a, b?`, or nothing where no known word is near."""
    found = nearest(word, known)
    return f"; did you mean {', '.join(found)}?" if found else ""
