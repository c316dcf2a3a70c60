"""Opaque page tokens and cursors, and the size of a page.

A token is a position in base64 of JSON. It is bound to the `scope` it was made for (the method and its
filter, say), so that a token of one listing is refused by another. It is no secret and no permission.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from services.common.errors import InvalidCursor

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000


def page_size(requested: int) -> int:
    """Return the size to use for a requested one: 0 means the default, and none exceeds MAX_PAGE_SIZE."""
    return min(requested, MAX_PAGE_SIZE) if requested > 0 else DEFAULT_PAGE_SIZE


def encode_token(position: Mapping[str, Any], scope: str = "") -> str:
    """Return the token of a position whose values JSON can hold."""
    # Sorted, so that the same position is the same token wherever it was made.
    text = json.dumps([scope, dict(position)], separators=(",", ":"), sort_keys=True)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_token(token: str, shape: Mapping[str, type], scope: str = "") -> dict[str, Any]:
    """Return the position of a token made with the same `scope`.

    `shape` names its keys and their types, so that a forged token fails here and not in a query.

    Raises:
        InvalidCursor: the token was not made by `encode_token` for this scope and shape.
    """
    try:
        # The padding was cut off: `=` would have to be escaped in a URL.
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        found, position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        right = found == scope and {key: type(value) for key, value in position.items()} == dict(shape)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise InvalidCursor(token) from None
    if not right:
        raise InvalidCursor(token)
    return dict(position)
