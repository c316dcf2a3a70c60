"""Runs as messages, and what comes in as the trainer's own."""

from google.protobuf.message import Message

from services.common.errors import InvalidRequest
from services.common.specs import Checkpoint
from services.common.wire import to_domain, to_message
from services.trainer.node import Approval
from services.trainer.runs.journal import kind_of
from services.trainer.runs.records import (
    Evaluation,
    Event,
    Notice,
    Preparation,
    Progress,
    Run,
    RunEvent,
    StateChange,
)
from weighbridge.common.v1 import artifacts_pb2
from weighbridge.trainer.v1 import resources_pb2, service_pb2

_MESSAGES: dict[type[Event], type[Message]] = {
    StateChange: resources_pb2.StateChange,
    Progress: resources_pb2.Progress,
    Evaluation: resources_pb2.Evaluation,
    Checkpoint: artifacts_pb2.Checkpoint,
    Notice: resources_pb2.Notice,
    Preparation: resources_pb2.Preparation,
}


def run_to_message(run: Run) -> resources_pb2.Run:
    """Return a run as a message."""
    return to_message(run, resources_pb2.Run)


def event_to_message(event: RunEvent) -> resources_pb2.RunEvent:
    """Return an event as a message: its kind names the field."""
    message = resources_pb2.RunEvent(cursor=event.cursor, run=event.run)
    message.time.FromDatetime(event.time)
    happened = to_message(event.event, _MESSAGES[type(event.event)])
    # SetInParent: an event whose every field has its default is an event too.
    field = getattr(message, kind_of(event.event))
    field.CopyFrom(happened)
    field.SetInParent()
    return message


def approval_from_request(request: service_pb2.StartRunRequest) -> Approval | None:
    """Return the approval of a request. None: it has none."""
    if not request.HasField("approval"):
        return None
    try:
        return to_domain(Approval, request.approval)
    except ValueError as error:
        raise InvalidRequest({"approval": str(error)}) from None
