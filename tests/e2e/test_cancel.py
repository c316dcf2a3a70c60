"""A job can be cancelled at every point of its life: nothing runs afterwards, nothing stays reserved."""

import time

import pytest

from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from weighbridge.exceptions import WrongState
from weighbridge.hardware.v1.service_pb2 import ListReservationsRequest
from weighbridge.hardware.v1.service_pb2_grpc import NodeServiceStub
from weighbridge.jobs import Job

LONG = {"max_steps": 100_000, "logging_steps": 2, "per_device_train_batch_size": 8}


def assert_nothing_is_left(platform: Platform, job: Job) -> None:
    def free() -> bool:
        with platform.channel("hardware") as channel:
            request = ListReservationsRequest()
            listed = platform.call("gateway", NodeServiceStub(channel).ListReservations, request).reservations
        return not [each for each in listed if each.run.startswith(f"runs/{job.id}-")]

    eventually(free)
    assert not platform.holds_alive(platform.run_dir(job))


# From before its weighing to the middle of its start: where exactly, depends on the machine.
@pytest.mark.parametrize("moment_s", [0.0, 0.1, 0.5, 2.0, 5.0])
def test_a_job_is_cancelled_on_its_way_to_running(platform: Platform, moment_s: float) -> None:
    job = platform.client.train(tiny_vit(training=LONG))
    time.sleep(moment_s)
    job.cancel()
    eventually(lambda: job.refresh().done)
    assert job.state == "CANCELLED"
    assert_nothing_is_left(platform, job)


def test_a_running_job_is_cancelled_and_resumed_from_its_checkpoint(platform: Platform) -> None:
    checkpointing = {"save_strategy": "steps", "save_steps": 10}
    job = platform.client.train(tiny_vit(training={**LONG, "max_steps": 400}, checkpointing=checkpointing))
    eventually(lambda: platform.client.jobs.checkpoints(job.id))
    job.cancel()
    eventually(lambda: job.refresh().done)
    assert job.state == "CANCELLED"
    assert_nothing_is_left(platform, job)
    kept = platform.client.jobs.checkpoints(job.id)[-1].step
    job.resume()
    job.wait()
    assert job.message.attempts[-1].approval.start_from.step == kept
    assert job.state == "SUCCEEDED"


def test_cancel_is_idempotent_and_leaves_a_finished_job_as_it_is(platform: Platform) -> None:
    job = platform.client.train(tiny_vit(training={"max_steps": 2})).wait()
    assert job.cancel().state == "SUCCEEDED"
    with pytest.raises(WrongState):
        job.resume()
