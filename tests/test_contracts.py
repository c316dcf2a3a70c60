"""What the linter cannot see: every field that a caller sends says whether it must be there."""

import importlib
from collections.abc import Iterator

import pytest
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

MODULES = [f"weighbridge.{package}.v1.service_pb2" for package in ("gateway", "hardware", "trainer")] + [
    "weighbridge.common.v1.training_spec_pb2"
]


def sent_messages() -> list[Descriptor]:
    """Return every request, and every message of a training spec."""
    return [
        descriptor
        for module in MODULES
        for name, descriptor in importlib.import_module(module).DESCRIPTOR.message_types_by_name.items()
        if name.endswith("Request") or "training_spec" in module
    ]


def without_behaviour(descriptor: Descriptor) -> Iterator[str]:
    for field in descriptor.fields:
        if not stated(field):
            yield field.full_name


def stated(field: FieldDescriptor) -> bool:
    # Of a oneof exactly one is sent: that rule stands on the oneof.
    real_oneof = field.containing_oneof is not None and not field.containing_oneof.name.startswith("_")
    return real_oneof or bool(field.GetOptions().Extensions[field_behavior_pb2.field_behavior])


@pytest.mark.parametrize("descriptor", sent_messages(), ids=lambda each: each.full_name)
def test_every_sent_field_says_whether_it_must_be_there(descriptor: Descriptor) -> None:
    assert not list(without_behaviour(descriptor))
