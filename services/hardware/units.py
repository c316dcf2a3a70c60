"""Bytes as people read them."""

GIB = 1 << 30
MIB = 1 << 20


def human(size_bytes: int) -> str:
    """Return a size in GiB, or in MiB where it is less than a tenth of one: `3.2 GiB`, `48 MiB`."""
    if abs(size_bytes) < GIB // 10:
        return f"{size_bytes / MIB:.0f} MiB"
    return f"{size_bytes / GIB:.1f} GiB"
