"""Listings, page by page."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol, TypeVar

T = TypeVar("T")
PAGE_SIZE = 100


class Page(Protocol):
    """An answer of any list method."""

    next_page_token: str


P = TypeVar("P", bound=Page)


def listed(fetch: Callable[[str], P], items: Callable[[P], Iterable[T]], limit: int | None) -> Iterator[T]:
    """Yield at most `limit` items of all pages; `fetch` gets the page of a token."""
    return islice(_all(fetch, items), limit)


def _all(fetch: Callable[[str], P], items: Callable[[P], Iterable[T]]) -> Iterator[T]:
    token = ""
    while True:
        page = fetch(token)
        yield from items(page)
        token = page.next_page_token
        if not token:
            return
