"""What only a machine with a GPU can show: `make test-gpu`."""

import pynvml
import pytest

from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from weighbridge.gateway.v1.resources_pb2 import ConditionType


def has_gpu() -> bool:
    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_gpu(), reason="NVML finds no NVIDIA GPU on this machine"),
]
ON_GPU = {"device": "cuda"}


def test_a_job_is_weighed_against_the_gpu_and_trained_on_it(platform: Platform) -> None:
    job = platform.client.train(tiny_vit(placement=ON_GPU)).wait()
    attempt = job.message.attempts[0]
    gpu = platform.client.nodes()[0].snapshot.gpus[0].uuid
    assert {amount.device for amount in attempt.approval.amounts} >= {gpu, "host"}
    outcome = next(o for o in platform.client.outcomes() if o.run == f"runs/{job.id}-1")
    assert 0 < outcome.measured_bytes <= outcome.predicted_bytes


def test_a_gpu_belongs_to_one_run_unless_both_share(platform: Platform) -> None:
    first = platform.client.train(
        tiny_vit(placement=ON_GPU, training={"max_steps": 20_000, "logging_steps": 2})
    )
    eventually(lambda: first.refresh().message.progress.step > 0)
    second = platform.client.train(tiny_vit(placement=ON_GPU, training={"max_steps": 4}))
    waiting = ConditionType.CONDITION_TYPE_WAITING
    eventually(lambda: any(each.type == waiting for each in second.refresh().message.conditions))
    first.cancel()
    second.wait()
    assert second.state == "SUCCEEDED"
