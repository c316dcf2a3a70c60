"""Requests to the child as bytes of the contract's messages, and its answers."""

import hashlib

from services.common.spec_wire import parse_resolved, serialize_resolved, spec_from_message
from services.common.specs import DatasetSummary, FileTree
from services.common.wire import to_domain, to_message
from services.hardware.estimate.analytic import estimate
from services.hardware.estimate.chat import ChatQuestion, weigh_chat
from services.hardware.estimate.resolve import resolve
from services.hardware.estimate.sources.reading import Places
from weighbridge.hardware.v1 import resources_pb2, service_pb2


def answer_resolve(data: bytes, places: Places) -> bytes:
    """Return a serialized ResolveSpecResponse to a serialized ResolveSpecRequest."""
    request = service_pb2.ResolveSpecRequest.FromString(data)
    resolved, warnings = resolve(
        spec_from_message(request.spec),
        to_domain(DatasetSummary, request.dataset) if request.HasField("dataset") else None,
        to_domain(FileTree, request.base_artifact) if request.HasField("base_artifact") else None,
        request.project,
        places,
    )
    serialized = serialize_resolved(resolved)
    response = service_pb2.ResolveSpecResponse(
        resolved_spec=serialized, spec_sha256=hashlib.sha256(serialized).hexdigest(), warnings=warnings
    )
    return response.SerializeToString()


def answer_estimate(data: bytes) -> bytes:
    """Return a serialized Estimate of a serialized ResolvedSpec."""
    return to_message(estimate(parse_resolved(data)), resources_pb2.Estimate).SerializeToString()


def answer_chat(data: bytes) -> bytes:
    """Return a serialized EstimateChatResponse to a serialized EstimateChatRequest."""
    request = service_pb2.EstimateChatRequest.FromString(data)
    asked = to_domain(ChatQuestion, request)
    chat, needed = weigh_chat(parse_resolved(request.resolved_spec), asked)
    response = service_pb2.EstimateChatResponse(
        resolved_spec=serialize_resolved(chat), estimate=to_message(needed, resources_pb2.Estimate)
    )
    return response.SerializeToString()
