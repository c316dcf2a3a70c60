"""The converter: every specification survives the way to the wire and back."""

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from google.protobuf.descriptor import Descriptor
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import specs
from services.common.errors import InvalidRequest
from services.common.failures import Failure
from services.common.spec_wire import parse_resolved, serialize_resolved, spec_from_message, spec_to_message
from services.common.wire import to_domain, to_message
from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2, training_spec_pb2
from weighbridge.gateway.v1 import resources_pb2

UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
# A Struct holds doubles: whole ones come back as int, so only such and true fractions are the same again.
STRUCT_NUMBERS = st.integers(-(2**53), 2**53) | NUMBERS.filter(lambda x: not x.is_integer())
JSON = st.recursive(
    st.none() | st.booleans() | STRUCT_NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SECONDS = st.integers(1, 10**15).map(lambda microseconds: microseconds / 1e6)


def value_of(hint: Any, name: str) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a dataclass's field."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return st.lists(value_of(arguments[0], name), max_size=3).map(tuple)
    if origin is not None and type(None) in arguments:
        return st.none() | value_of(arguments[0], name)
    if hint == dict[str, Any]:
        return st.dictionaries(TEXT, JSON, max_size=3)
    if origin is not None:
        return st.dictionaries(TEXT, value_of(arguments[1], name), max_size=3)
    if dataclasses.is_dataclass(hint):
        return instances(hint)
    if issubclass(hint, StrEnum):
        return st.sampled_from(hint)
    simple = {str: TEXT, bool: st.booleans(), int: UINT32.map(lambda x: x % 2**31), float: NUMBERS}
    return SECONDS if name.endswith("_s") else simple[hint]


def instances(cls: Any) -> st.SearchStrategy[Any]:
    if cls is specs.ModelSource:
        names = ("hub", "path", "gguf", "config", "job")
        hints = get_type_hints(cls)
        return st.one_of(
            [value_of(get_args(hints[name])[0], name).map(lambda v, n=name: cls(**{n: v})) for name in names]
        )
    hints = get_type_hints(cls)
    return st.builds(cls, **{f.name: value_of(hints[f.name], f.name) for f in dataclasses.fields(cls)})


@settings(max_examples=150, deadline=None)
@given(instances(specs.TrainingSpec))
def test_a_spec_survives_the_wire(spec: specs.TrainingSpec) -> None:
    data = spec_to_message(spec).SerializeToString()
    assert spec_from_message(training_spec_pb2.TrainingSpec.FromString(data)) == spec


@settings(max_examples=50, deadline=None)
@given(instances(specs.ResolvedSpec))
def test_a_resolved_spec_survives_as_bytes(resolved: specs.ResolvedSpec) -> None:
    data = serialize_resolved(resolved)
    assert parse_resolved(data) == resolved
    assert serialize_resolved(parse_resolved(data)) == data


def test_the_order_of_a_map_changes_no_byte() -> None:
    spec = specs.TrainingSpec(task=specs.Task.SFT, model=specs.ModelSource(), dataset="")
    resolved = specs.ResolvedSpec(
        spec=spec,
        model=specs.ResolvedModel(config_json="", model_type=""),
        dataset=specs.DatasetSummary(
            name="", digest="", size_bytes=0, format=specs.DatasetFormat.CSV, example_count=0
        ),
        resolver_version="1",
    )
    labels = {f"label-{i}": str(i) for i in range(50)}
    orders = (labels, dict(reversed(labels.items())))
    versions = [
        serialize_resolved(dataclasses.replace(resolved, spec=dataclasses.replace(spec, labels=order)))
        for order in orders
    ]
    assert versions[0] == versions[1]


@pytest.mark.parametrize("data", [b"\xff\xff", b"", b"no resolved spec"])
def test_bytes_that_are_no_resolved_spec_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_resolved(data)


PAIRS = [
    (specs.TrainingSpec, training_spec_pb2.TrainingSpec),
    (specs.ResolvedSpec, resolved_spec_pb2.ResolvedSpec),
    (specs.FileTree, artifacts_pb2.FileTree),
    (specs.Checkpoint, artifacts_pb2.Checkpoint),
    (Failure, artifacts_pb2.Failure),
]


def unmatched(cls: Any, descriptor: Descriptor) -> set[str]:
    """Return the contract's fields and enum values that a dataclass lacks, and the other way round."""
    hints = get_type_hints(cls)
    found = set()
    for proto in descriptor.fields:
        name = proto.name if proto.name in hints else f"{proto.name}_s"
        if name not in hints:
            found.add(f"{descriptor.name}.{proto.name}")
            continue
        hint = hints.pop(name)
        inner = [a for a in get_args(hint) if a not in (type(None), ...)]
        kind = inner[-1] if inner else hint
        if proto.enum_type is not None:
            prefix = proto.enum_type.values[0].name.removesuffix("UNSPECIFIED")
            values = {value.name.removeprefix(prefix).lower() for value in proto.enum_type.values[1:]}
            found |= values ^ {member.value for member in kind}
        elif dataclasses.is_dataclass(kind):
            found |= unmatched(kind, proto.message_type)
    return found | {f"{cls.__name__}.{name}" for name in hints}


@pytest.mark.parametrize(("cls", "message"), PAIRS)
def test_every_field_of_the_contract_has_its_counterpart(cls: Any, message: Any) -> None:
    assert unmatched(cls, message.DESCRIPTOR) == set()


def test_what_was_not_given_stays_different_from_zero() -> None:
    given_zero = specs.TextOptions(packing=False, neftune_noise_alpha=0.0, max_length=0)
    assert to_domain(specs.TextOptions, to_message(given_zero, training_spec_pb2.TextOptions)) == given_zero
    nothing = to_message(specs.TextOptions(), training_spec_pb2.TextOptions)
    assert nothing.SerializeToString() == b""
    assert to_domain(specs.TextOptions, nothing).packing is None


def test_an_empty_message_differs_from_none() -> None:
    spec = specs.TrainingSpec(
        task=specs.Task.DPO, model=specs.ModelSource(config={}), dataset="d", lora=specs.LoraOptions()
    )
    again = spec_from_message(spec_to_message(spec))
    assert (again.lora, again.text, again.model.config) == (specs.LoraOptions(), None, {})


def test_whole_numbers_of_a_struct_are_int_and_fractions_float() -> None:
    source = specs.ModelSource(config={"layers": 4, "rate": 0.5, "nested": [{"big": 2**53}], "flag": True})
    config = to_domain(specs.ModelSource, to_message(source, training_spec_pb2.ModelSource)).config
    assert config == source.config
    assert [type(value) for value in (config["layers"], config["rate"], config["flag"])] == [int, float, bool]


@dataclass(frozen=True)
class Job:
    name: str = ""
    state: "State | None" = None
    create_time: datetime | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    attempts: "tuple[Attempt, ...]" = ()


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"


@dataclass(frozen=True)
class Attempt:
    attempt: int


def test_times_states_and_lists_of_messages_are_converted() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    job = Job("j", State.RUNNING, moment, {"loss": 0.25, "nan": math.inf}, (Attempt(1), Attempt(2)))
    message = to_message(job, resources_pb2.TrainingJob)
    assert message.state == resources_pb2.TrainingJob.STATE_RUNNING
    assert to_domain(Job, message) == job
    assert to_domain(Job, resources_pb2.TrainingJob()) == Job()


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    elsewhere = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    message = to_message(Job(create_time=elsewhere), resources_pb2.TrainingJob)
    assert to_domain(Job, message).create_time == elsewhere
    with pytest.raises(ValueError, match="no time zone"):
        to_message(Job(create_time=datetime(2026, 1, 2)), resources_pb2.TrainingJob)


def test_a_state_that_the_dataclass_does_not_know_is_an_error() -> None:
    for number in (resources_pb2.TrainingJob.STATE_FAILED, 99):
        message = resources_pb2.TrainingJob()
        message.state = number
        with pytest.raises(ValueError, match="is not a valid State"):
            to_domain(Job, message)


def test_a_field_without_counterpart_is_an_error() -> None:
    @dataclass(frozen=True)
    class Wrong:
        no_such_field: str = ""

    with pytest.raises(TypeError, match="no_such_field"):
        to_message(Wrong(), resources_pb2.TrainingJob)


def test_union_syntaxes_mean_the_same() -> None:
    @dataclass(frozen=True)
    class Old:
        seed: Union[int, None] = None  # noqa: UP007

    assert to_domain(Old, training_spec_pb2.TrainingSpec()) == Old()
    assert to_domain(Old, training_spec_pb2.TrainingSpec(seed=0)) == Old(0)
