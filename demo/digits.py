"""Real images without a network: the 1,797 handwritten digits of scikit-learn, as zips of PNG files."""

import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
"""Pixels of a written image's side; the originals have 8."""


class Digit(NamedTuple):
    """One handwritten digit."""

    number: int
    label: int
    png: bytes


def digits() -> list[Digit]:
    """Return every digit as a PNG file of `SIDE` by `SIDE` grey pixels, in scikit-learn's order.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """
    bunch = load_digits()
    return [
        Digit(number, int(label), _png(pixels))
        for number, (pixels, label) in enumerate(zip(bunch.images, bunch.target, strict=True))
    ]


def _png(pixels: "np.ndarray[tuple[int, int], np.dtype[np.float64]]") -> bytes:
    ink = Image.fromarray((255 - pixels / 16 * 255).astype(np.uint8), "L")
    out = BytesIO()
    ink.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def write_zip(path: Path, chosen: Iterable[Digit]) -> Path:
    """Write digits as a data set, one folder a label, and return `path`. Equal digits give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for digit in chosen:
            # A fixed date, so that a second run uploads the same data set and finds it there.
            entry = zipfile.ZipInfo(f"{digit.label}/{digit.number:04}.png", (1998, 7, 1, 0, 0, 0))
            archive.writestr(entry, digit.png)
    return path
