"""Zips of images, good and bad."""

import io
import zipfile
from collections.abc import Mapping

from PIL import Image


def png(shade: int = 0, size: tuple[int, int] = (4, 4)) -> bytes:
    """Return a small picture."""
    data = io.BytesIO()
    Image.new("L", size, shade).save(data, "PNG")
    return data.getvalue()


def archive(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of these files."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(zipfile.ZipInfo(name), content, compress_type=compression)
    return data.getvalue()


def good(count: int = 3) -> dict[str, bytes]:
    """Return the files of a data set of two labels."""
    return {
        f"{label}/{number}.png": png(10 * number + offset)
        for offset, label in enumerate(("cat", "dog"))
        for number in range(count)
    }
