"""Figures in the words of people."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(size_bytes: int) -> str:
    """Return `2.3 GiB`: three digits, binary units."""
    value, units = float(size_bytes), list(_SIZES)
    while abs(value) >= 1000 and len(units) > 1:
        value /= 1024
        units.pop(0)
    digits = 0 if units[0] == "B" or abs(value) >= 100 else 1
    return f"{value:.{digits}f} {units[0]}"


def count(number: float) -> str:
    """Return `85.8 M`."""
    for limit, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e4, " k")):
        if number >= limit:
            scaled = number / (1e3 if unit == " k" else limit)
            return f"{scaled:.{0 if scaled >= 100 else 1}f}{unit}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Return `2h 5m`, `3m 20s` or `4.2s`: the two largest units."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    for size_s, unit, below_s, below in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size_s:
            rest = whole % size_s // below_s
            return f"{whole // size_s}{unit}" + (f" {rest}{below}" if rest else "")
    return f"{whole}s"


def ago(stamp: Timestamp) -> str:
    """Return how long ago a time was, `3m 20s ago`; empty for no time."""
    if not stamp.seconds:
        return ""
    passed_s = datetime.now(UTC).timestamp() - stamp.seconds
    if passed_s >= 2 * 86_400:
        return f"{passed_s / 86_400:.0f} days ago"
    return "now" if passed_s < 1 else f"{duration(passed_s)} ago"


def clock(stamp: Timestamp) -> str:
    """Return the local time of day; empty for no time."""
    return stamp.ToDatetime(UTC).astimezone().strftime("%H:%M:%S") if stamp.seconds else ""


def stamp(when: Timestamp) -> str:
    """Return `Nov 25 01:34:20`, local time, for tables; empty for no time."""
    return when.ToDatetime(UTC).astimezone().strftime("%b %d %H:%M:%S") if when.seconds else ""


def moment(stamp: Timestamp) -> str:
    """Return local date and time; empty for no time."""
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else ""


def many(number: int, thing: str) -> str:
    """Return `1 file` or `2 files`."""
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def cut(text: str, length: int) -> str:
    """Return `text`, or its beginning if it is longer than `length` letters."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def figure(value: float) -> str:
    """Return a metric with four digits."""
    return f"{value:.4g}"


def metrics(values: "dict[str, float]") -> str:
    """Return `accuracy 0.93, loss 0.21`, with single figures first named by what people ask for."""
    first = [name for name in ("accuracy", "loss") if name in values]
    rest = sorted(name for name in values if name not in first)
    return ", ".join(f"{name} {figure(values[name])}" for name in (*first, *rest))


def enum_word(name: str, prefix: str) -> str:
    """Return `host memory` for `LIMIT_KIND_HOST_MEMORY`."""
    return name.removeprefix(prefix).lower().replace("_", " ")
