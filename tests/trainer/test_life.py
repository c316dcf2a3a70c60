"""A run that nothing disturbs."""

import json

import pytest

from services.common.errors import Code
from services.trainer.recipes import TASKS
from tests.trainer.harness import (
    FAILED,
    LOST,
    STARTING,
    SUCCEEDED,
    Trainer,
    eventually,
    refused,
    shape,
)
from weighbridge.trainer.v1 import resources_pb2, service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")
RUN = "runs/a-1"


async def test_a_run_goes_from_its_approval_to_its_artifact(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["progress", 2], ["save", 2], ["succeed"])
    assert shape(await shared.events(name)) == [
        "ACCEPTED",
        "STARTING",
        "preparation",
        "preparation",
        "RUNNING",
        "progress 1",
        "progress 2",
        "checkpoint 2",
        "SUCCEEDED",
    ]
    run = await shared.get(name)
    assert run.state == SUCCEEDED
    assert run.progress.step == 2
    assert [file.path for file in run.artifact.files] == ["metrics.json", "model.bin"]
    assert [checkpoint.attempt for checkpoint in run.checkpoints] == [1]
    assert [(peak.device, peak.peak_bytes) for peak in run.peaks] == [("host", 7)]
    assert run.create_time.ToNanoseconds() <= run.end_time.ToNanoseconds()


async def test_the_memory_is_free_when_the_final_event_is_seen(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["succeed"])
    await shared.events(name)
    assert name not in shared.node.active
    assert shared.node.released.count(name) == 1


async def test_what_a_run_made_leaves_the_node_once_it_is_in_the_store(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["save", 1], ["succeed"])
    run = await shared.ended(name)
    await eventually(lambda: not (shared.run_dir(name) / "artifact").exists())
    assert shared.store.exists(run.artifact.digest)
    assert shared.store.exists(run.checkpoints[0].digest)


async def test_a_failure_is_told_as_the_worker_told_it(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["fail", "DIVERGED"])
    run = await shared.ended(name)
    assert run.state == FAILED
    assert (run.failure.reason, run.failure.message) == ("DIVERGED", "it went wrong")
    assert dict(run.failure.metadata) == {"step": "3"}


async def test_a_failure_before_training_is_one_too(shared: Trainer, name: str) -> None:
    await shared.run(name, ["fail", "BAD_DATA"])
    assert (await shared.ended(name)).failure.reason == "BAD_DATA"


async def test_a_diverged_loss_can_be_told(shared: Trainer, name: str) -> None:
    line = '{"time": 1, "type": "progress", "step": 1, "loss": NaN, "grad_norm": Infinity}\n'
    await shared.run(name, ["started"], ["write", line], ["fail", "DIVERGED"])
    run = await shared.ended(name)
    assert run.progress.loss != run.progress.loss
    assert run.progress.grad_norm == float("inf")


async def test_lines_that_are_no_events_are_passed_over(shared: Trainer, name: str) -> None:
    torn = '{"time": 1, "type": "progr{"time": 2, "type": "progress", "step": 1}\n[]\n{"type": "new"}\n'
    await shared.run(name, ["started"], ["write", torn], ["progress", 1], ["succeed"])
    assert shape(await shared.events(name))[4:] == ["RUNNING", "progress 1", "SUCCEEDED"]


async def test_a_line_counts_when_it_is_whole(shared: Trainer, name: str) -> None:
    await shared.run(
        name,
        ["started"],
        ["write", '{"time": 1, "type": "notice", "mess'],
        ["sleep", 0.7],
        ["write", 'age": "two halves"}\n'],
        ["succeed"],
    )
    events = await shared.events(name)
    assert [event.notice.message for event in events if event.HasField("notice")] == ["two halves"]


async def test_run_that_has_lost_one_of_its_processes_is_lost_and_says_which(
    shared: Trainer, name: str
) -> None:
    failure = {"reason": "WORKER_LOST", "message": "rank 1 of the 2 ended", "metadata": {"run": name}}
    await shared.run(name, ["started"], ["raw_outcome", json.dumps({"state": "failed", "failure": failure})])
    run = await shared.ended(name)
    assert run.state == LOST
    assert run.failure.message == "rank 1 of the 2 ended"


async def test_an_outcome_that_cannot_be_read_fails_the_run(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["raw_outcome", '{"state": "glorious"}'])
    run = await shared.ended(name)
    assert (run.state, run.failure.reason) == (FAILED, "TRAINING_ERROR")


async def test_a_success_without_its_artifact_is_none(shared: Trainer, name: str) -> None:
    outcome = '{"state": "succeeded", "artifact": "artifact"}'
    await shared.run(name, ["started"], ["raw_outcome", outcome])
    assert (await shared.ended(name)).failure.metadata["type"] == "InvalidArtifact"


async def test_the_node_hears_what_a_run_uses(shared: Trainer, name: str) -> None:
    await shared.run(name, ["usage", 12345], ["wait_for", "go"], ["exit", 0])
    await eventually(lambda: (name, "host", 12345) in shared.node.used)
    (shared.run_dir(name) / "go").touch()
    # A run that leaves no outcome still has the peak that it reported.
    assert [peak.peak_bytes for peak in (await shared.ended(name)).peaks] == [12345]


async def test_the_node_hears_again_and_again_what_the_trainer_is(trainer: Trainer) -> None:
    await eventually(lambda: len(trainer.node.reports) > 2)
    report = trainer.node.reports[-1]
    assert report.address == "trainer.test:1"
    assert list(report.software.packages) == ["json"]
    assert "ModuleNotFoundError" in report.software.import_errors["no_such_package"]
    assert len(report.software.tasks) == len(TASKS)


async def test_the_worker_sees_its_secrets_and_no_credential(shared: Trainer, name: str) -> None:
    shared.keep_secret("hub", "s3cret\n")
    await shared.run(name, ["mark", "here"], ["wait_for", "go"], ["succeed"], secrets=[("HF_TOKEN", "hub")])
    await eventually((shared.run_dir(name) / "here").exists)
    (process,) = shared.processes(name)
    environment = process.environ()
    (shared.run_dir(name) / "go").touch()
    await shared.ended(name)
    assert environment["HF_TOKEN"] == "s3cret"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert [name for name in environment if name.startswith("WEIGHBRIDGE_")] == ["WEIGHBRIDGE_RUN_DIR"]


@pytest.mark.parametrize("secret", ["absent", "../default/hub", ".."])
async def test_a_secret_that_is_not_there_fails_the_run(shared: Trainer, name: str, secret: str) -> None:
    shared.keep_secret("hub", "s3cret")
    await shared.run(name, ["succeed"], secrets=[("HF_TOKEN", secret)])
    run = await shared.ended(name)
    assert (run.failure.reason, run.failure.metadata["item"]) == ("FETCH_FAILED", f"secret {secret}")


async def test_inputs_that_the_store_lacks_fail_the_run(shared: Trainer, name: str) -> None:
    missing = "sha256:" + "0" * 64
    other = name.replace("job", "other")
    await shared.run(name, ["succeed"], digest=missing)
    await shared.run(other, ["succeed"], artifact_digest=missing)
    assert (await shared.ended(name)).failure.metadata["item"] == "projects/default/datasets/script"
    assert (await shared.ended(other)).failure.metadata["item"] == "the base model's artifact"
    assert not shared.node.active & {name, other}


async def test_a_checkpoint_that_the_store_lacks_fails_the_run(shared: Trainer, name: str) -> None:
    made, second = await first_attempt(shared, name), name.replace("-1", "-2")
    shared.store.delete(made.checkpoints[0].digest)
    await shared.run(second, ["succeed"], start_from=made.checkpoints[0])
    run = await shared.ended(second)
    assert (run.failure.reason, run.failure.metadata["step"]) == ("BAD_CHECKPOINT", "3")


async def test_the_next_attempt_finds_the_checkpoint_it_goes_on_from(shared: Trainer, name: str) -> None:
    made, second = await first_attempt(shared, name), name.replace("-1", "-2")
    await shared.run(second, ["started"], ["succeed"], start_from=made.checkpoints[0])
    run = await shared.ended(second)
    assert run.start_from == made.checkpoints[0]
    start = shared.read_json(second, "inputs.json")["start_from_dir"]
    assert shared.files(start) == {"weights": "weights of step 3"}


async def first_attempt(trainer: Trainer, name: str) -> resources_pb2.Run:
    """Return a lost run that has saved step 3."""
    await trainer.run(name, ["started"], ["save", 3], ["die"])
    run = await trainer.ended(name)
    assert run.state == LOST
    return run


async def test_a_run_that_takes_too_long_is_stopped_as_failed(shared: Trainer, name: str) -> None:
    await shared.run(name, ["started"], ["progress", 1000, 0.1], max_duration_s=1.0)
    run = await shared.ended(name)
    assert (run.state, run.failure.reason) == (FAILED, "MAX_DURATION_EXCEEDED")
    assert dict(run.failure.metadata) == {"limit": "1s"}
    # It got the time to write one.
    assert len(run.checkpoints) == 1


async def test_runs_are_listed_newest_first_page_by_page(trainer: Trainer) -> None:
    for job in "abc":
        await trainer.run(f"runs/{job}-1", ["succeed"])
    first = await trainer.stub.ListRuns(service_pb2.ListRunsRequest(page_size=2))
    assert [run.name for run in first.runs] == ["runs/c-1", "runs/b-1"]
    second = await trainer.stub.ListRuns(
        service_pb2.ListRunsRequest(page_size=2, page_token=first.next_page_token)
    )
    assert [run.name for run in second.runs] == ["runs/a-1"]
    assert second.next_page_token == ""
    async with refused("INVALID_CURSOR"):
        await trainer.stub.ListRuns(service_pb2.ListRunsRequest(page_token="junk"))


async def test_unknown_runs_are_not_found(shared: Trainer, name: str) -> None:
    async with refused("NOT_FOUND"):
        await shared.get(name)
    async with refused("NOT_FOUND"):
        await shared.events(name)
    async with refused("INVALID_REQUEST"):
        await shared.get("runs/..")


async def test_a_run_is_deleted_once_it_has_ended(shared: Trainer, name: str) -> None:
    await shared.run(name, ["wait_for", "go"], ["succeed"])
    await shared.until(name, STARTING)
    async with refused("WRONG_STATE", Code.FAILED_PRECONDITION):
        await shared.delete(name)
    (shared.run_dir(name) / "go").touch()
    await shared.ended(name)
    await shared.delete(name)
    await shared.delete(name)
    assert not shared.run_dir(name).exists()
    async with refused("STALE_ATTEMPT"):
        await shared.run(name, ["succeed"])


async def test_capabilities_can_be_asked_for(shared: Trainer) -> None:
    software = await shared.stub.GetCapabilities(service_pb2.GetCapabilitiesRequest())
    assert list(software.packages) == ["json"]
