"""What an uploaded file may be. Imported by the process that checks one: it stays small."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of an archive of images, or of a file of text."""

    max_items: int
    """Entries of an archive."""
    max_rows: int
    """Rows of a file of text."""
    max_unpacked_bytes: int
    """All entries unpacked, or all rows."""
    max_item_bytes: int
    """One entry unpacked, or one row."""
    max_ratio: int
    """Bytes that one byte of an entry may unpack to."""
    max_pixels: int
    """Pixels that an image may declare."""
    memory_bytes: int
    """Memory of the process that checks."""
    timeout_s: float
    """Processor time of the process that checks."""


@dataclass
class Broken(Exception):
    """The data breaks a rule; the same fields as InvalidDataset's."""

    item: str
    limit: str
    actual: str
