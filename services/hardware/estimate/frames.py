"""Messages between the serving process and its child: one byte of kind, four of length, then the body."""

import struct
from enum import IntEnum
from typing import BinaryIO

HEADER = struct.Struct(">BI")


class Kind(IntEnum):
    """What a body is."""

    READY = 1
    """Empty: the child has imported what it needs."""
    RESOLVE = 2
    """A serialized ResolveSpecRequest; answered by a ResolveSpecResponse."""
    ESTIMATE = 3
    """A serialized ResolvedSpec; answered by an Estimate."""
    CHAT = 7
    """A serialized EstimateChatRequest; answered by an EstimateChatResponse."""
    STARTED = 6
    """Empty: the child has read a request; if it dies now, it dies of that one."""
    ANSWER = 4
    """A serialized answer."""
    REFUSAL = 5
    """JSON: the reason and the fields of the error that the caller gets."""


def pack(kind: Kind, body: bytes = b"") -> bytes:
    """Return a frame."""
    return HEADER.pack(kind, len(body)) + body


def read(stream: BinaryIO) -> tuple[Kind, bytes] | None:
    """Return the next frame of a blocking stream, or None at its end."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, size = HEADER.unpack(header)
    return Kind(kind), stream.read(size)
