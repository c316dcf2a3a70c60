"""Specs as messages and as the bytes that approvals sign."""

from google.protobuf.message import DecodeError

from services.common.errors import InvalidRequest
from services.common.specs import ResolvedSpec, TrainingSpec
from services.common.wire import to_domain, to_message
from weighbridge.common.v1 import resolved_spec_pb2, training_spec_pb2


def spec_from_message(message: training_spec_pb2.TrainingSpec) -> TrainingSpec:
    """Return the spec of a message that passed its contract's validation."""
    return to_domain(TrainingSpec, message)


def spec_to_message(spec: TrainingSpec) -> training_spec_pb2.TrainingSpec:
    """Return the message of a spec."""
    return to_message(spec, training_spec_pb2.TrainingSpec)


def parse_resolved(data: bytes) -> ResolvedSpec:
    """Return the spec that `serialize_resolved` wrote as `data`.

    Raises:
        InvalidRequest: `data` is no resolved spec.
    """
    try:
        return to_domain(ResolvedSpec, resolved_spec_pb2.ResolvedSpec.FromString(data))
    except (DecodeError, ValueError) as error:
        raise InvalidRequest({"resolved_spec": f"these bytes are no resolved spec: {error}"}) from None


def serialize_resolved(resolved: ResolvedSpec) -> bytes:
    """Return the bytes of a resolved spec, maps in the order of their keys.

    Make them once and keep them: another version of protobuf may write others, and what is signed is bytes.
    """
    return to_message(resolved, resolved_spec_pb2.ResolvedSpec).SerializeToString(deterministic=True)
