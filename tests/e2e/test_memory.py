"""Memory is promised once: what does not fit waits its turn, and a run's own memory is counted once."""

import json

import pytest

from tests.e2e.conftest import MakePlatform
from tests.e2e.data import tiny_vit
from tests.e2e.platform import Platform, eventually
from weighbridge.gateway.v1.resources_pb2 import ConditionType
from weighbridge.hardware.v1.resources_pb2 import Decision


@pytest.fixture(scope="module")
def platform(make_platform: MakePlatform, shared_platform: Platform) -> Platform:
    """Return a platform on which one small job fits and two do not."""
    host = shared_platform.client.check(tiny_vit()).estimate.placements[0].host
    need = host.peak_reserved_bytes + host.context_bytes + host.margin_bytes
    return make_platform(WEIGHBRIDGE_CAPACITY_BYTES=json.dumps({"host": need * 3 // 2}))


def test_the_second_job_waits_when_the_first_holds_the_memory_and_then_runs(platform: Platform) -> None:
    first = platform.client.train(tiny_vit(training={"max_steps": 60, "logging_steps": 2}))
    eventually(lambda: first.refresh().message.progress.step > 0)
    second = platform.client.train(tiny_vit(training={"max_steps": 4}))
    waiting = eventually(
        lambda: [
            condition
            for condition in second.refresh().message.conditions
            if condition.type == ConditionType.CONDITION_TYPE_WAITING
        ]
    )[0]
    assert waiting.position == 1
    assert f"runs/{first.id}-1" in waiting.message, "it says who holds the memory"
    assert platform.client.check(tiny_vit()).verdict.decision == Decision.DECISION_WAIT
    first.wait()
    second.wait()
    ended, began = first.message.attempts[0].end_time, second.message.attempts[0].create_time
    assert ended.ToNanoseconds() <= began.ToNanoseconds()


def test_a_running_jobs_own_memory_is_counted_once(platform: Platform) -> None:
    job = platform.client.train(tiny_vit(training={"max_steps": 60, "logging_steps": 2}))
    eventually(lambda: job.refresh().message.progress.step > 0)
    host = next(d for d in platform.client.nodes()[0].snapshot.devices if d.id == "host")
    reserved = job.message.attempts[0].approval.amounts[0].reserved_bytes
    assert host.held_bytes == reserved
    job.cancel()
    eventually(lambda: job.refresh().done)
