"""Pictures to a model, as many in a call as fit into one message."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from weighbridge._link import Link
from weighbridge.exceptions import TooLarge
from weighbridge.gateway.v1.service_pb2 import ClassifyImagesRequest
from weighbridge.trainer.v1.resources_pb2 import Classification

Image: TypeAlias = str | Path | bytes
"""A file, or the encoded bytes of one."""

Classifications: TypeAlias = list[Classification]
"""One a picture, in their order."""

MAX_IMAGES = 64
# A message holds 4 MiB; names and lengths need a little of it.
MAX_BYTES = (4 << 20) - (16 << 10)
# The trainer imports its libraries and loads the model first.
TIMEOUT_S = 300.0


def classify(link: Link, job: str, images: Iterable[Image], top_k: int) -> Classifications:
    """Return what each picture shows, in their order. Raises TooLarge for one that fits into no message."""
    found: Classifications = []
    for batch in _batches(images):
        request = ClassifyImagesRequest(name=job, images=batch, top_k=top_k)
        found += link.call(link.training.ClassifyImages, request, TIMEOUT_S).classifications
    return found


def _batches(images: Iterable[Image]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for image in images:
        data = _read(image)
        if batch and (len(batch) == MAX_IMAGES or sum(map(len, batch)) + len(data) > MAX_BYTES):
            yield batch
            batch = []
        batch.append(data)
    if batch:
        yield batch


def _read(image: Image) -> bytes:
    data, name = (image, "a picture") if isinstance(image, bytes) else (Path(image).read_bytes(), str(image))
    if len(data) > MAX_BYTES:
        text = f"{name} has {len(data)} bytes, but one call carries {MAX_BYTES}: make it smaller"
        raise TooLarge("TOO_LARGE", text, {"limit": str(MAX_BYTES), "actual": str(len(data))})
    return data
