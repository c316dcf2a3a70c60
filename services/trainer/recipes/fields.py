"""Reading a resolved spec, in which nothing may be left open."""

from typing import TypeVar

from services.common.errors import InvalidSpec

T = TypeVar("T")


def need(value: T | None, field: str) -> T:
    """Return a field's value.

    Raises:
        InvalidSpec: it is absent, so the spec was not resolved.
    """
    if value is None:
        raise InvalidSpec(field=field, value="absent", limit="a resolved spec leaves nothing open")
    return value
