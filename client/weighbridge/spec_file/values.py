"""Single values of a spec: text to what a field holds, and back."""

import math
import re
from decimal import Decimal

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor

from weighbridge.spec_file.suggest import close

_UNITS_NS = {"d": 86_400 * 10**9, "h": 3_600 * 10**9, "m": 60 * 10**9, "s": 10**9}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[dhms])\s*")
# Of google.protobuf.Duration: ten thousand years.
_MAX_DURATION_NS = 315_576_000_000 * 10**9
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_REALS = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)


def read_scalar(field: FieldDescriptor, text: str) -> str | bool | int | float:
    """Return the value that `text` is in a field of a scalar or enum type.

    Raises:
        ValueError: it is none; the message says what was expected.
    """
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool(text)
    if field.enum_type is not None:
        return read_enum(field.enum_type, text)
    if field.cpp_type in _REALS:
        return _read_real(text)
    return _read_integer(text, *_INTEGERS[field.cpp_type])


def _read_bool(text: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise ValueError(f"expected true or false, found {text!r}")
    return words[text.lower()]


def _read_real(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"expected a number, found {text!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, found {text!r}")
    return value


def _read_integer(text: str, low: int, high: int) -> int:
    expected = f"expected a whole number from {low} to {high}, found {text!r}"
    try:
        # 1e3 is a whole number too.
        value = int(text) if re.fullmatch(r"[+-]?[\d_]+", text) else float(text)
    except ValueError:
        raise ValueError(expected) from None
    if not low <= value <= high or value != int(value):
        raise ValueError(expected)
    return int(value)


def read_enum(kind: EnumDescriptor, text: str) -> int:
    """Return the number of an enum's value from its short name, such as `cosine`.

    Raises:
        ValueError: there is none of that name; the message lists those there are.
    """
    numbers = {short_name(kind, value.number): value.number for value in kind.values if value.number}
    number = numbers.get(text.lower())
    if number is None:
        nearest = close(text.lower(), list(numbers))
        hint = f": did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(f"{text!r} is none of {', '.join(numbers)}{hint}")
    return number


def short_name(kind: EnumDescriptor, number: int) -> str:
    """Return the short name of an enum's value: `SCHEDULER_TYPE_COSINE` is `cosine`."""
    prefix = kind.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return kind.values_by_number[number].name.removeprefix(prefix).lower()


def read_duration(text: str) -> int:
    """Return the nanoseconds of a duration such as `2h30m`, `90s` or `1.5h`.

    Raises:
        ValueError: it is no duration, or one of more than ten thousand years.
    """
    parts = _DURATION.findall(text)
    units = [unit for _, unit in parts]
    if not parts or _DURATION.sub("", text.strip()) or len(set(units)) < len(units):
        raise ValueError(f"expected a duration such as 2h30m or 90s, found {text!r}")
    scale = {**_UNITS_NS, "ms": 10**6}
    total = round(sum(Decimal(number) * scale[unit] for number, unit in parts))
    if total > _MAX_DURATION_NS:
        raise ValueError(f"expected at most ten thousand years, found {text!r}")
    return total


def write_duration(total_ns: int) -> str:
    """Return a duration as `read_duration` reads it. Raises ValueError for a negative one."""
    if total_ns < 0:
        raise ValueError("a spec has no negative durations")
    text, rest = "", total_ns
    for unit, size in _UNITS_NS.items():
        if unit == "s":
            break
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    if rest or not text:
        text += f"{(Decimal(rest) / 10**9).normalize():f}s"
    return text
