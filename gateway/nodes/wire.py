"""Nodes and the audit trail as messages."""

from collections.abc import Sequence
from datetime import UTC

from gateway.audit.records import Admission, Outcome
from gateway.nodes.node import FleetNode, Report
from gateway.packed import Packed
from services.common.wire import to_message
from weighbridge.common.v1 import training_spec_pb2
from weighbridge.gateway.v1 import resources_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2


def report_of(message: hardware_pb2.Node) -> Report:
    """Return what the gateway reads in a snapshot."""
    active = hardware_pb2.RESERVATION_STATE_ACTIVE
    observed = message.HasField("observe_time")
    return Report(
        name=message.name,
        snapshot=Packed(message.SerializeToString()),
        address=message.address,
        trainer_address=message.trainer_address,
        ready=message.state == hardware_pb2.NODE_STATE_READY,
        ready_reason=message.state_reason,
        holding=tuple(held.run for held in message.reservations if held.state == active),
        observe_time=message.observe_time.ToDatetime(UTC) if observed else None,
    )


def product_of(snapshot: Packed, device: str) -> str:
    """Return the product name of a node's device, a GPU's UUID or `host`."""
    node = hardware_pb2.Node.FromString(snapshot)
    return next((gpu.product for gpu in node.gpus if gpu.uuid == device), node.cpu.model)


def node_message(node: FleetNode, runs: Sequence[str]) -> resources_pb2.FleetNode:
    """Return a node with the runs that the ledger places on it."""
    message = resources_pb2.FleetNode(
        name=node.name,
        state=resources_pb2.FleetNodeState.Value(f"FLEET_NODE_STATE_{node.state.upper()}"),
        state_reason=node.state_reason,
        cordoned=node.cordoned,
        runs=runs,
    )
    message.snapshot.ParseFromString(node.snapshot)
    message.heartbeat_time.FromDatetime(node.heartbeat_time)
    message.create_time.FromDatetime(node.create_time)
    return message


def admission_message(entry: Admission) -> resources_pb2.Admission:
    """Return an entry of the audit trail."""
    message = resources_pb2.Admission(
        name=entry.name,
        job=entry.job_name,
        attempt=entry.attempt,
        caller=entry.caller,
        node=entry.node,
        decision=hardware_pb2.Decision.Value(f"DECISION_{entry.decision.upper()}"),
        summary=entry.summary,
        spec_sha256=entry.spec_sha256,
        amounts=[to_message(amount, hardware_pb2.DeviceAmount) for amount in entry.amounts],
    )
    message.time.FromDatetime(entry.time)
    message.duration.FromNanoseconds(round(entry.duration_s * 1e9))
    return message


def outcome_message(outcome: Outcome) -> hardware_pb2.Outcome:
    """Return a prediction beside its measurement."""
    message = hardware_pb2.Outcome(
        run=outcome.run,
        node=outcome.node,
        model_type=outcome.model_type,
        task=training_spec_pb2.Task.Value(f"TASK_{outcome.task.upper()}"),
        predicted_bytes=outcome.predicted_bytes,
        measured_bytes=outcome.measured_bytes,
        product=outcome.product,
    )
    if outcome.device:
        message.device = training_spec_pb2.DeviceKind.Value(f"DEVICE_KIND_{outcome.device.upper()}")
    if outcome.method:
        message.method = hardware_pb2.EstimateMethod.Value(f"ESTIMATE_METHOD_{outcome.method.upper()}")
    message.end_time.FromDatetime(outcome.end_time)
    return message
