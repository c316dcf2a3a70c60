"""From a message to plain mappings, lists and scalars, as a person would write them in YAML."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from weighbridge.spec_file.reader import DURATION, STRUCT
from weighbridge.spec_file.references import abbreviate
from weighbridge.spec_file.values import short_name, write_duration


def to_plain(message: Message, project: str) -> dict[str, Any]:
    """Return what is set in `message`, in the contract's order, with short names."""
    return {field.name: _field(field, value, project) for field, value in message.ListFields()}


def _field(field: FieldDescriptor, value: Any, project: str) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(sorted(value.items()))
    if field.is_repeated:
        return [_value(field, item, project) for item in value]
    return _value(field, value, project)


def _value(field: FieldDescriptor, value: Any, project: str) -> Any:
    if field.message_type is not None:
        return _message(value, project)
    if field.enum_type is not None:
        return short_name(field.enum_type, value)
    if isinstance(value, str):
        return abbreviate(field.full_name, value, project)
    return _whole_numbers(value)


def _message(message: Any, project: str) -> Any:
    kind = message.DESCRIPTOR.full_name
    if kind == DURATION:
        return write_duration(message.ToNanoseconds())
    if kind == STRUCT:
        return _whole_numbers(MessageToDict(message))
    return to_plain(message, project)


def _whole_numbers(value: Any) -> Any:
    """Return floats without a fraction as people write them: `5` epochs, not `5.0`."""
    if isinstance(value, dict):
        return {key: _whole_numbers(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value
