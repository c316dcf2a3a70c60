"""Decoding every image of an archive, to know that it can be trained on."""

import hashlib
import io
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from zipfile import BadZipFile, ZipFile

from PIL import Image

from gateway.datasets.layout import Item
from gateway.datasets.limits import Broken, Limits

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# What Pillow's decoders raise for bytes that somebody tampered with.
_UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError),
    *(MemoryError, NotImplementedError, BadZipFile, struct.error, zlib.error, Image.DecompressionBombError),
)
_NAMED = 20
_SHOWN = 5


@dataclass
class Images:
    """What was found in an archive's images."""

    max_pixels: int = 0
    by_digest: dict[bytes, list[Item]] = field(default_factory=lambda: defaultdict(list))

    def warnings(self) -> list[str]:
        """Return what looks wrong, in words."""
        across = [same for same in self.by_digest.values() if len({item.label for item in same}) > 1]
        if not across:
            return []
        shown = "; ".join(" = ".join(item.entry.filename for item in same) for same in across[:_SHOWN])
        more = f"; and {len(across) - _SHOWN} more" if len(across) > _SHOWN else ""
        return [f"the same image under different labels: {shown}{more}"]


def check_images(archive: ZipFile, items: Iterable[Item], limits: Limits) -> Images:
    """Decode every image. Raises Broken, naming up to 20 files that are no whole images."""
    # The limit below says it better, and Pillow's own is a warning that nobody sees.
    Image.MAX_IMAGE_PIXELS = None
    found = Images()
    faults: dict[str, str] = {}
    for item in items:
        try:
            data = archive.read(item.entry)
            found.max_pixels = max(found.max_pixels, _decode(data, item, limits))
        except _UNDECODABLE as error:
            faults[item.entry.filename] = str(error) or type(error).__name__
            continue
        found.by_digest[hashlib.sha256(data).digest()].append(item)
    if faults:
        raise _broken(faults)
    return found


def _decode(data: bytes, item: Item, limits: Limits) -> int:
    """Return an image's pixels."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        # Before anything is unpacked: a few bytes can declare terabytes.
        if width * height > limits.max_pixels:
            raise Broken(item.entry.filename, f"at most {limits.max_pixels} pixels", f"{width} x {height}")
        # Opening reads a header. Only decoding tells whether the rest is there.
        image.load()
    return width * height


def _broken(faults: dict[str, str]) -> Broken:
    names = list(faults)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    first = faults[names[0]].partition("<")[0].strip()
    count = "a file that is none" if len(names) == 1 else f"{len(names)} files that are none"
    return Broken(
        ", ".join(names[:_NAMED]) + more,
        f"whole images ({', '.join(FORMATS)})",
        f"{count}: {first}",
    )
