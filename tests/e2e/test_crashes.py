"""Every process may be killed at any time: the job goes on, nothing is lost, nothing exists twice."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import MakePlatform
from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from weighbridge.gateway.v1.resources_pb2 import JobEvent
from weighbridge.hardware.v1.resources_pb2 import Reservation, ReservationState
from weighbridge.hardware.v1.service_pb2 import ListReservationsRequest
from weighbridge.hardware.v1.service_pb2_grpc import NodeServiceStub
from weighbridge.jobs import Job


@pytest.fixture(scope="module")
def platform(make_platform: MakePlatform) -> Platform:
    """Return a platform whose processes are killed; each test leaves it whole again."""
    return make_platform()


def long_job(**changes: Any) -> dict[str, Any]:
    """Return a job that is long enough to be interrupted, with a checkpoint every few steps."""
    training = {"max_steps": 150, "per_device_train_batch_size": 8, "learning_rate": 2e-3, "logging_steps": 2}
    checkpointing = {"save_strategy": "steps", "save_steps": 15}
    return tiny_vit(training=training, checkpointing=checkpointing, **changes)


def steps(job: Job) -> int:
    """Return the optimiser steps that the job is known to have done."""
    return int(job.refresh().message.progress.step)


def reservations(platform: Platform) -> list[Reservation]:
    with platform.channel("hardware") as channel:
        stub = NodeServiceStub(channel)
        return list(platform.call("gateway", stub.ListReservations, ListReservationsRequest()).reservations)


def progress_steps(events: list[JobEvent]) -> list[int]:
    return [event.progress.step for event in events if event.HasField("progress")]


def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_weights(
    platform: Platform, tmp_path: Path
) -> None:
    whole = platform.client.train(long_job()).wait()
    broken = platform.client.train(long_job())
    eventually(lambda: platform.client.jobs.checkpoints(broken.id))
    platform.kill_worker(broken)
    broken.wait()
    attempts = broken.message.attempts
    assert [attempt.attempt for attempt in attempts] == [1, 2]
    assert attempts[0].failure.reason == "WORKER_LOST"
    assert attempts[1].approval.start_from.step > 0
    assert platform.weights(broken, tmp_path / "b") == platform.weights(whole, tmp_path / "w")


def test_a_killed_trainer_service_leaves_the_run_going_and_shows_it_without_a_gap(platform: Platform) -> None:
    job = platform.client.train(long_job())
    events: list[JobEvent] = []
    watch = job.watch()
    while len(progress_steps(events)) < 3:
        events.append(next(watch))
    pid = platform.worker(job)
    platform.kill("trainer")
    platform.start("trainer")
    events.extend(watch)
    assert job.state == "SUCCEEDED"
    assert platform.worker(job) == pid, "the same worker went on"
    assert len(job.message.attempts) == 1
    seen = progress_steps(events)
    assert seen == sorted(set(seen)), "no event twice, none out of order"
    assert seen == [1, *range(2, 151, 2)], "no event is missing"


def test_a_killed_hardware_service_loses_no_reservation_and_invents_none(platform: Platform) -> None:
    job = platform.client.train(long_job())
    eventually(lambda: steps(job) > 0)
    before = {
        each.run: [(a.device, a.reserved_bytes) for a in each.amounts] for each in reservations(platform)
    }
    platform.kill("hardware")
    platform.start("hardware")
    after = {
        each.run: [(a.device, a.reserved_bytes) for a in each.amounts] for each in reservations(platform)
    }
    assert after == before
    assert list(after) == [f"runs/{job.id}-1"]
    assert reservations(platform)[0].state == ReservationState.RESERVATION_STATE_ACTIVE
    job.wait()
    eventually(lambda: not reservations(platform))


def test_a_gateway_killed_between_reserve_and_start_ends_in_one_run(platform: Platform) -> None:
    # A trainer that stands still keeps the gateway in between for as long as it takes.
    with platform.stopped("trainer"):
        job = platform.client.train(tiny_vit(training={"max_steps": 4}))
        held = eventually(lambda: reservations(platform))
        assert [each.state for each in held] == [ReservationState.RESERVATION_STATE_HELD]
        platform.kill("gateway")
    platform.start("gateway")
    job.wait()
    assert [attempt.attempt for attempt in job.message.attempts if attempt.HasField("start_time")] == [1]
    eventually(lambda: not reservations(platform))


@pytest.mark.parametrize("moment_s", [0.0, 0.05, 0.3, 3.0])
def test_a_killed_gateway_ends_in_one_run(platform: Platform, moment_s: float) -> None:
    spec = tiny_vit(training={"max_steps": 4})
    job = platform.client.train(spec, request_id=f"killed-{moment_s}")
    # How far it gets by then differs on every machine; each point must end well.
    time.sleep(moment_s)
    platform.kill("gateway")
    platform.start("gateway")
    again = platform.client.train(spec, request_id=f"killed-{moment_s}")
    assert again.id == job.id
    again.wait()
    ran = [attempt for attempt in again.message.attempts if attempt.HasField("start_time")]
    assert len(ran) == 1
    eventually(lambda: not reservations(platform))
