"""An estimator that weighs by a label: a job needs as many bytes of host memory as its label `need` says."""

import hashlib
from typing import Any

import grpc.aio

from tests.gateway.faults import Faults
from weighbridge.common.v1 import resolved_spec_pb2, training_spec_pb2
from weighbridge.hardware.v1 import resources_pb2, service_pb2, service_pb2_grpc


class FakeEstimator(service_pb2_grpc.EstimatorServiceServicer):
    """Answers at once, unless a test has other plans."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.asked: list[str] = []
        self.offers_plans = False
        self.asked_about = service_pb2.RecommendPlansRequest()

    async def ResolveSpec(
        self, request: service_pb2.ResolveSpecRequest, context: Any
    ) -> service_pb2.ResolveSpecResponse:
        self.asked.append("ResolveSpec")
        await self.faults.strike("ResolveSpec", context)
        resolved = resolved_spec_pb2.ResolvedSpec(
            spec=request.spec, dataset=request.dataset, resolver_version="fake"
        )
        resolved.model.model_type = "vit"
        resolved.model.config_json = f'{{"made": {len(self.asked)}}}'
        data = resolved.SerializeToString(deterministic=True)
        return service_pb2.ResolveSpecResponse(
            resolved_spec=data, spec_sha256=hashlib.sha256(data).hexdigest(), warnings=["resolved by a fake"]
        )

    async def EstimateTraining(
        self, request: service_pb2.EstimateTrainingRequest, context: Any
    ) -> resources_pb2.Estimate:
        self.asked.append("EstimateTraining")
        await self.faults.strike("EstimateTraining", context)
        estimate = resources_pb2.Estimate(method=resources_pb2.ESTIMATE_METHOD_ANALYTIC)
        placement = estimate.placements.add(device=training_spec_pb2.DEVICE_KIND_CPU, device_count=1)
        placement.host.peak_reserved_bytes = need_of(request.resolved_spec)
        return estimate

    async def EstimateChat(
        self, request: service_pb2.EstimateChatRequest, context: Any
    ) -> service_pb2.EstimateChatResponse:
        await self.faults.strike("EstimateChat", context)
        estimate = resources_pb2.Estimate(method=resources_pb2.ESTIMATE_METHOD_ANALYTIC)
        placement = estimate.placements.add(device=training_spec_pb2.DEVICE_KIND_CPU, device_count=1)
        placement.host.peak_reserved_bytes = request.context_tokens
        chat = resolved_spec_pb2.ResolvedSpec.FromString(request.resolved_spec)
        chat.model.artifact_digest = request.artifact.digest
        return service_pb2.EstimateChatResponse(resolved_spec=chat.SerializeToString(), estimate=estimate)

    async def WeighNodes(
        self, request: service_pb2.WeighNodesRequest, context: Any
    ) -> service_pb2.WeighNodesResponse:
        await self.faults.strike("WeighNodes", context)
        verdicts = [weigh(node, request.estimate) for node in request.nodes]
        return service_pb2.WeighNodesResponse(verdicts=verdicts)

    async def RecommendPlans(
        self, request: service_pb2.RecommendPlansRequest, context: Any
    ) -> service_pb2.RecommendPlansResponse:
        if not self.offers_plans:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "plans come later")
        self.asked_about = request
        return service_pb2.RecommendPlansResponse(plans=[resources_pb2.Plan(spec=request.spec)])


def need_of(resolved_spec: bytes) -> int:
    spec = resolved_spec_pb2.ResolvedSpec.FromString(resolved_spec).spec
    return int(spec.labels.get("need", "10"))


def weigh(node: resources_pb2.Node, estimate: resources_pb2.Estimate) -> resources_pb2.Verdict:
    needed = estimate.placements[0].host.peak_reserved_bytes
    host = node.devices[0]
    if needed > host.capacity_bytes:
        decision = resources_pb2.DECISION_REJECT
    elif needed > host.available_bytes or node.state != resources_pb2.NODE_STATE_READY:
        decision = resources_pb2.DECISION_WAIT
    else:
        decision = resources_pb2.DECISION_ADMIT
    holders = ", ".join(held.run for held in node.reservations) or "nobody"
    verdict = resources_pb2.Verdict(
        node=node.name,
        decision=decision,
        summary=f"needs {needed} of {host.available_bytes} bytes on {node.name}; {holders} has the rest",
        device=training_spec_pb2.DEVICE_KIND_CPU,
    )
    verdict.limits.add(
        kind=resources_pb2.LIMIT_KIND_HOST_MEMORY,
        subject="host",
        needed_bytes=needed,
        available_bytes=host.available_bytes,
        capacity_bytes=host.capacity_bytes,
    )
    return verdict
