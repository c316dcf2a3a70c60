"""The estimator, as the gateway asks it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from gateway.audit.records import Decision
from gateway.packed import Packed
from gateway.peers import Peers, ask
from gateway.weighing.verdict import NodeVerdict, Prediction, Resolved
from services.common.errors import NotAvailable
from services.common.spec_wire import spec_from_message
from services.common.specs import DatasetSummary, TrainingSpec
from services.common.wire import to_message
from weighbridge.common.v1 import artifacts_pb2, resolved_spec_pb2, training_spec_pb2
from weighbridge.gateway.v1 import resources_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.hardware.v1 import service_pb2

_MEMORY = (hardware_pb2.LIMIT_KIND_GPU_MEMORY, hardware_pb2.LIMIT_KIND_HOST_MEMORY)
_PLANS_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Question:
    """A spec with what the gateway knows of what it names."""

    project: str
    spec: Packed
    dataset: DatasetSummary | None
    base_artifact: Packed | None


class Estimator:
    """Every method raises what the estimator answers, and PeerUnavailable where it does not."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def resolve(self, question: Question) -> Resolved:
        """Return the spec without gaps. Raises InvalidSpec, InvalidModel."""
        request = service_pb2.ResolveSpecRequest(
            spec=training_spec_pb2.TrainingSpec.FromString(question.spec),
            dataset=_dataset(question),
            base_artifact=_artifact(question),
            project=question.project,
        )
        answer = await self._ask("ResolveSpec", request, self._peers.estimate_timeout_s)
        return Resolved(answer.resolved_spec, answer.spec_sha256, tuple(answer.warnings))

    async def estimate(self, resolved: bytes) -> Packed:
        """Return what a resolved spec needs, an Estimate."""
        request = service_pb2.EstimateTrainingRequest(resolved_spec=resolved)
        answer = await self._ask("EstimateTraining", request, self._peers.estimate_timeout_s)
        return Packed(answer.SerializeToString())

    async def weigh(self, resolved: bytes, estimate: Packed, nodes: Sequence[Packed]) -> list[NodeVerdict]:
        """Return what nodes would say, in their order."""
        if not nodes:
            return []
        request = service_pb2.WeighNodesRequest(
            resolved_spec=resolved,
            estimate=hardware_pb2.Estimate.FromString(estimate),
            nodes=[hardware_pb2.Node.FromString(node) for node in nodes],
        )
        answer = await self._ask("WeighNodes", request, self._peers.timeout_s)
        return [node_verdict(verdict) for verdict in answer.verdicts]

    async def plans(self, question: Question, nodes: Sequence[Packed]) -> list[Packed]:
        """Return changed specs that fit. None, where the estimator does not offer that."""
        request = service_pb2.RecommendPlansRequest(
            spec=training_spec_pb2.TrainingSpec.FromString(question.spec),
            dataset=_dataset(question),
            base_artifact=_artifact(question),
            nodes=[hardware_pb2.Node.FromString(node) for node in nodes],
        )
        try:
            answer = await self._ask("RecommendPlans", request, _PLANS_TIMEOUT_S)
        except NotAvailable:
            return []
        return [Packed(plan.SerializeToString()) for plan in answer.plans]

    async def _ask(self, method: str, request: Message, timeout_s: float) -> Any:
        stub = self._peers.estimator
        return await ask(getattr(stub, method), request, self._peers.estimator_target, timeout_s)


def node_verdict(message: hardware_pb2.Verdict) -> NodeVerdict:
    """Return what the gateway reads in a verdict."""
    left = [limit.available_bytes - limit.needed_bytes for limit in message.limits if limit.kind in _MEMORY]
    return NodeVerdict(
        node=message.node,
        decision=Decision(hardware_pb2.Decision.Name(message.decision).removeprefix("DECISION_").lower()),
        summary=message.summary,
        left_bytes=min(left, default=0),
        message=Packed(message.SerializeToString()),
    )


def pack_verdict(
    decision: Decision, summary: str, nodes: Sequence[NodeVerdict], plans: Sequence[Packed]
) -> Packed:
    """Return a JobVerdict."""
    message = resources_pb2.JobVerdict(
        decision=hardware_pb2.Decision.Value(f"DECISION_{decision.upper()}"),
        summary=summary,
        nodes=[hardware_pb2.Verdict.FromString(node.message) for node in nodes],
        plans=[hardware_pb2.Plan.FromString(plan) for plan in plans],
    )
    return Packed(message.SerializeToString())


def predict(estimate: Packed, device: str) -> Prediction:
    """Return what an estimate says about the device that trains (`cpu` or `cuda`)."""
    message = hardware_pb2.Estimate.FromString(estimate)
    wanted = training_spec_pb2.DeviceKind.Value(f"DEVICE_KIND_{device.upper()}")
    memory = hardware_pb2.MemoryEstimate()
    for placement in message.placements:
        if placement.device == wanted:
            memory = placement.gpu if placement.HasField("gpu") else placement.host
    method = hardware_pb2.EstimateMethod.Name(message.method).removeprefix("ESTIMATE_METHOD_").lower()
    return Prediction(method, memory.peak_reserved_bytes + memory.context_bytes)


def spec_of(message: Packed) -> TrainingSpec:
    """Return a spec that was accepted before."""
    return spec_from_message(training_spec_pb2.TrainingSpec.FromString(message))


def _dataset(question: Question) -> resolved_spec_pb2.DatasetSummary | None:
    return (
        None if question.dataset is None else to_message(question.dataset, resolved_spec_pb2.DatasetSummary)
    )


def _artifact(question: Question) -> artifacts_pb2.FileTree | None:
    artifact = question.base_artifact
    return None if artifact is None else artifacts_pb2.FileTree.FromString(artifact)
