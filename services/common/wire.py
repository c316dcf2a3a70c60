"""The one converter between frozen dataclasses and protobuf messages, by field name.

========================= ================================================================================
contract                  dataclass
========================= ================================================================================
scalar `x`                `x: T`; `x: T | None` where the contract says `optional` or the field is in a oneof
enum `x`                  `x: E | None`, E a StrEnum of the values' names without prefix, in lower case;
                          `…_UNSPECIFIED` is None
message `x`               `x: D | None`, D a dataclass; typed `D`, an absent message reads as an empty one
Duration `x`              `x_s: float | None`, seconds
Timestamp `x`             `x: datetime | None`, UTC
Struct `x`                `x: dict[str, Any] | None`; whole numbers become int
repeated, map             `tuple[T, ...]`, `dict[K, T]`
========================= ================================================================================

The dataclass decides which fields take part: others stay unset in a message and are passed over when read.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Protocol, TypeVar

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


D = TypeVar("D", bound=Dataclass)
M = TypeVar("M", bound=Message)

_DURATION = Duration.DESCRIPTOR.full_name
_TIMESTAMP = Timestamp.DESCRIPTOR.full_name
_STRUCT = Struct.DESCRIPTOR.full_name


def to_domain(cls: type[D], message: Message) -> D:
    """Return `message` as a `cls`.

    Raises:
        TypeError: a field of `cls` has no counterpart in the contract.
        ValueError: an enum holds a value that `cls` does not know, or none where `cls` needs one.
    """
    values = {link.name: link.read(message) for link in _links(cls, message.DESCRIPTOR)}
    return cls(**values)


def to_message(obj: Dataclass, message_cls: type[M]) -> M:
    """Return `obj` as a `message_cls`. Raises TypeError where a field has no counterpart in the contract."""
    message = message_cls()
    for link in _links(type(obj), message.DESCRIPTOR):
        value = getattr(obj, link.name)
        if value is not None:
            link.write(message, value)
    return message


@dataclasses.dataclass(frozen=True)
class _Link:
    """One field of a dataclass and its counterpart."""

    name: str
    field: FieldDescriptor
    kind: Any
    """The dataclass field's type: of the elements, where there are several; without `| None`."""
    optional: bool

    def read(self, message: Message) -> Any:
        value = getattr(message, self.field.name)
        values_of_map = _map_value(self.field)
        convert = _reader(values_of_map or self.field, self.kind)
        if values_of_map is not None:
            return {key: convert(item) for key, item in value.items()}
        if self.field.is_repeated:
            return tuple(convert(item) for item in value)
        if self.field.has_presence and self.optional and not message.HasField(self.field.name):
            return None
        if self.field.enum_type is not None and self.optional and value == 0:
            return None
        return convert(value)

    def write(self, message: Message, value: Any) -> None:
        field, target = self.field, getattr(message, self.field.name)
        values_of_map = _map_value(field)
        if values_of_map is not None:
            _write_map(values_of_map, target, value)
        elif field.is_repeated:
            target.extend([_written(field, item) for item in value])
        elif field.message_type is not None:
            target.CopyFrom(_written(field, value))
            # An empty message that is there differs from one that is not.
            target.SetInParent()
        else:
            setattr(message, field.name, _written(field, value))


def _write_map(value_field: FieldDescriptor, target: Any, values: Mapping[Any, Any]) -> None:
    for key, item in values.items():
        if value_field.message_type is not None:
            target[key].CopyFrom(_written(value_field, item))
        else:
            target[key] = _written(value_field, item)


@functools.cache
def _links(cls: type[Dataclass], descriptor: Descriptor) -> tuple[_Link, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(_link(cls, name, hints[name], descriptor) for name in cls.__dataclass_fields__)


def _link(cls: type[Dataclass], name: str, hint: Any, descriptor: Descriptor) -> _Link:
    field = descriptor.fields_by_name.get(name)
    # A float is seconds only by its name.
    if field is None and name.endswith("_s"):
        field = descriptor.fields_by_name.get(name.removesuffix("_s"))
        field = field if field is not None and _full_name(field) == _DURATION else None
    if field is None:
        raise TypeError(f"{cls.__name__}.{name} has no counterpart in {descriptor.full_name}")
    kind, optional = _strip_none(hint)
    if field.is_repeated:
        # tuple[T, ...] holds its T first, dict[K, V] its V last.
        arguments = typing.get_args(kind)
        kind = arguments[0] if _map_value(field) is None else arguments[1]
    return _Link(name, field, kind, optional)


def _strip_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    members = [member for member in typing.get_args(hint) if member is not types.NoneType]
    return members[0], len(members) < len(typing.get_args(hint))


def _map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    entry = field.message_type
    return entry.fields_by_name["value"] if entry is not None and entry.GetOptions().map_entry else None


def _full_name(field: FieldDescriptor) -> str | None:
    return None if field.message_type is None else field.message_type.full_name


def _same(value: Any) -> Any:
    return value


def _reader(field: FieldDescriptor, kind: Any) -> Callable[[Any], Any]:
    """Return what turns one value of `field` into one of type `kind`."""
    well_known: dict[str | None, Callable[[Any], Any]] = {
        _DURATION: _seconds,
        _TIMESTAMP: lambda stamp: stamp.ToDatetime(UTC),
        _STRUCT: struct_to_dict,
    }
    if field.message_type is not None:
        return well_known.get(_full_name(field)) or functools.partial(to_domain, kind)
    if field.enum_type is not None:
        return functools.partial(_member, kind, field.enum_type)
    return _same


def _written(field: FieldDescriptor, value: Any) -> Any:
    """Return `value` as `field` takes it."""
    name = _full_name(field)
    if name == _DURATION:
        return _duration(value)
    if name == _TIMESTAMP:
        return _timestamp(value)
    if name == _STRUCT:
        return dict_to_struct(value)
    if field.message_type is not None:
        return to_message(value, GetMessageClass(field.message_type))
    if field.enum_type is not None:
        return _number(value, field.enum_type)
    return value


def _seconds(duration: Duration) -> float:
    # One division of integers rounds once: the float that was written comes back.
    return duration.ToNanoseconds() / 10**9


def _duration(seconds: float) -> Duration:
    fraction, whole = math.modf(seconds)
    duration = Duration()
    duration.FromNanoseconds(int(whole) * 10**9 + round(fraction * 1e9))
    return duration


def _timestamp(moment: datetime) -> Timestamp:
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """Return a Struct as a dict; numbers without a fraction become int, for a Struct knows only doubles."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return struct_to_dict(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in ("null_value", None) else getattr(value, kind)


def dict_to_struct(values: Mapping[str, Any]) -> Struct:
    """Return a dict of JSON values as a Struct. Integers beyond 2**53 lose their last digits."""
    struct = Struct()
    struct.update(values)
    return struct


@functools.cache
def _prefix(enum: EnumDescriptor) -> str:
    return enum.values_by_number[0].name.removesuffix("UNSPECIFIED")


def _member(kind: type[StrEnum], enum: EnumDescriptor, number: int) -> StrEnum:
    value = enum.values_by_number.get(number)
    # A number that this version does not know makes a name that no enum has: a ValueError that shows it.
    name = str(number) if value is None else value.name.removeprefix(_prefix(enum)).lower()
    return kind(name)


def _number(member: StrEnum, enum: EnumDescriptor) -> int:
    return enum.values_by_name[_prefix(enum) + member.value.upper()].number
