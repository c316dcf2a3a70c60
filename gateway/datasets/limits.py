"""What an uploaded archive may be. Imported by the process that checks one: it stays small."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of an archive of images."""

    max_items: int
    """Entries of the archive."""
    max_unpacked_bytes: int
    """All entries unpacked."""
    max_item_bytes: int
    """One entry unpacked."""
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
    """The archive breaks a rule; the same fields as InvalidDataset's."""

    item: str
    limit: str
    actual: str
