import base64

import pytest

from services.common.errors import InvalidCursor
from services.common.pages import decode_token, encode_token, page_size

SHAPE = {"offset": int, "after": str}


def test_a_token_gives_back_its_position() -> None:
    position = {"offset": 12, "after": "é/x"}
    token = encode_token(position, scope="ListRuns")
    assert decode_token(token, SHAPE, scope="ListRuns") == position
    assert set(token) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "!!!!",
        "é",
        encode_token({"offset": 12, "after": "x"}, scope="another"),
        encode_token({"offset": "12", "after": "x"}),
        encode_token({"offset": True, "after": "x"}),
        encode_token({"offset": 12}),
        encode_token({"offset": 12, "after": "x", "more": 1}),
        base64.urlsafe_b64encode(b"[1, 2, 3]").decode(),
        base64.urlsafe_b64encode(b'["", 5]').decode(),
        base64.urlsafe_b64encode(b"[" * 100_000).decode(),
    ],
)
def test_a_token_that_was_not_issued_for_this_is_refused(token: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_token(token, SHAPE)


@pytest.mark.parametrize(("requested", "used"), [(0, 50), (-1, 50), (1, 1), (1000, 1000), (10**9, 1000)])
def test_a_page_has_a_default_and_a_largest_size(requested: int, used: int) -> None:
    assert page_size(requested) == used
