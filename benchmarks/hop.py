"""What the gateway adds to a unary call that it forwards, and what one costs that reads its ledger."""

import statistics
import time
from collections.abc import Callable, Mapping

import grpc
from google.protobuf.message import Message

from weighbridge.cli.up.home import Home
from weighbridge.common.v1.training_spec_pb2 import Task
from weighbridge.gateway.v1.service_pb2 import GetTrainingJobRequest
from weighbridge.gateway.v1.service_pb2 import RecommendModelsRequest as FleetRequest
from weighbridge.gateway.v1.service_pb2_grpc import FleetServiceStub, TrainingServiceStub
from weighbridge.hardware.v1.service_pb2 import RecommendModelsRequest
from weighbridge.hardware.v1.service_pb2_grpc import EstimatorServiceStub

CALLS = 500
WARM_UP = 50
LIMIT_MS = 3.0


def measure(home: Home, addresses: Mapping[str, str]) -> None:
    """Call the estimator directly and through the gateway, in turn, and print both.

    The method is one that the estimator answers at once and for which the gateway reads nothing, so that what
    is left is the way there and back. What the ledger adds where it is read stands beside it.
    """
    with (
        grpc.insecure_channel(addresses["hardware"]) as direct,
        grpc.insecure_channel(addresses["gateway"]) as through,
    ):
        estimator, fleet = EstimatorServiceStub(direct), FleetServiceStub(through)
        training = TrainingServiceStub(through)
        nobody = GetTrainingJobRequest(name="projects/default/trainingJobs/none")
        task = Task.TASK_IMAGE_CLASSIFICATION
        calls = {
            "direct": _call(home, "gateway", estimator.RecommendModels, RecommendModelsRequest(task=task)),
            "through the gateway": _call(home, "user", fleet.RecommendModels, FleetRequest(task=task)),
            "answered from the ledger": _call(home, "user", training.GetTrainingJob, nobody),
        }
        times_ms: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(WARM_UP + CALLS):
            for name, call in calls.items():
                begin_s = time.perf_counter()
                call()
                if turn >= WARM_UP:
                    times_ms[name].append((time.perf_counter() - begin_s) * 1e3)
    _print(times_ms)


def _call(home: Home, identity: str, method: Callable[..., object], request: Message) -> Callable[[], None]:
    metadata = [("authorization", f"Bearer {home.token_file(identity).read_text().strip()}")]

    def call() -> None:
        try:
            method(request, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            # That there is no such plan, or no such job, is an answer like any other; anything else is not.
            if error.code() not in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND):
                raise

    return call


def _print(times_ms: Mapping[str, list[float]]) -> None:
    print(f"Gateway hop: a unary call on loopback, {CALLS} calls of each kind in turn")
    for name, times in times_ms.items():
        quantiles = statistics.quantiles(times, n=100)
        print(f"  {name:<24} p50 {quantiles[49]:.2f} ms, p95 {quantiles[94]:.2f} ms")
    direct, through, _ = (statistics.median(times) for times in times_ms.values())
    print(f"  added at p50: {through - direct:.2f} ms (limit {LIMIT_MS:g} ms)")
