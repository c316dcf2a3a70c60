"""Jobs: created once, watched without a gap, and told apart by how they end."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.client.fake_gateway import JOB, FakeGateway, State, World
from weighbridge import exceptions as e
from weighbridge.client import Client
from weighbridge.common.v1.artifacts_pb2 import Failure
from weighbridge.gateway.v1 import resources_pb2 as gateway
from weighbridge.gateway.v1 import service_pb2 as api
from weighbridge.trainer.v1 import resources_pb2 as trainer

SPEC = {"task": "image_classification", "model": {"hub": "a/b"}, "dataset": "digits"}


def happen(world: World, *events: gateway.JobEvent) -> None:
    for number, event in enumerate(events, len(world.events) + 1):
        event.cursor = str(number)
        world.events.append(event)


def now(state: State.ValueType, **fields: object) -> gateway.JobEvent:
    return gateway.JobEvent(job=gateway.TrainingJob(name=JOB, state=state, **fields))  # type: ignore[arg-type]


def step(number: int) -> gateway.JobEvent:
    return gateway.JobEvent(progress=trainer.Progress(step=number, total_steps=10))


@pytest.fixture
def run(world: World) -> None:
    happen(world, now(State.STATE_RUNNING), *map(step, range(1, 11)), now(State.STATE_SUCCEEDED))


def test_a_job_is_created_in_the_callers_project(gateway: FakeGateway, world: World) -> None:
    with Client(gateway.target, "the-token", "research") as client:
        job = client.train(SPEC, display_name="first")
    (request,) = world.sent(api.CreateTrainingJobRequest)
    assert (request.parent, request.display_name) == ("projects/research", "first")
    assert request.spec.dataset == "projects/research/datasets/digits"
    assert (job.id, job.state, job.done) == ("t1", "PENDING", False)


def test_each_creation_has_a_request_id_of_its_own(client: Client, world: World) -> None:
    client.train(SPEC)
    client.train(SPEC)
    client.train(SPEC, request_id="mine")
    ids = [request.request_id for request in world.sent(api.CreateTrainingJobRequest)]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"


def test_a_spec_can_be_a_file(client: Client, world: World, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("task: sft\nmodel: {job: t0}\ndataset: digits\n")
    client.check(tmp_path / "spec.yaml")
    (request,) = world.sent(api.CheckTrainingJobRequest)
    assert request.spec.model.job == "projects/default/trainingJobs/t0"


@pytest.mark.usefixtures("run")
def test_a_watch_yields_every_event_to_the_end(client: Client) -> None:
    events = list(client.jobs.watch("t1"))
    assert [event.progress.step for event in events if event.HasField("progress")] == list(range(1, 11))
    assert events[-1].job.state == State.STATE_SUCCEEDED


@pytest.mark.usefixtures("run")
def test_a_broken_watch_goes_on_without_a_gap_and_without_a_double(client: Client, world: World) -> None:
    world.break_after_events = [3, 0, 4]
    events = list(client.jobs.watch("t1"))
    assert [event.progress.step for event in events if event.HasField("progress")] == list(range(1, 11))
    assert [event.job.state for event in events if event.HasField("job")] == [
        State.STATE_SUCCEEDED,
        State.STATE_RUNNING,
        State.STATE_SUCCEEDED,
    ]
    assert [request.cursor for request in world.sent(api.WatchTrainingJobRequest)] == ["", "3", "3", "7"]


@pytest.mark.usefixtures("run")
def test_a_watch_survives_a_killed_gateway(client: Client, gateway: FakeGateway) -> None:
    told: list[e.CallError] = []
    events = client.jobs.watch("t1", on_wait=told.append)
    seen = [next(events) for _ in range(4)]
    gateway.kill_for(0.5)
    seen += list(events)
    assert [event.progress.step for event in seen if event.HasField("progress")] == list(range(1, 11))


@pytest.mark.usefixtures("run")
def test_a_watch_that_ends_before_the_job_goes_on(client: Client, world: World) -> None:
    world.watches_end = True
    rest = world.events[5:]
    del world.events[5:]

    def happens(error: e.CallError) -> None:
        world.events += rest

    seen = list(client.jobs.watch("t1", on_wait=happens))
    assert [event.progress.step for event in seen if event.HasField("progress")] == list(range(1, 11))


@pytest.mark.usefixtures("run")
def test_a_watch_of_a_job_that_ended_long_ago_ends(client: Client, world: World) -> None:
    last = world.events[-1].cursor
    assert [event.job.state for event in client.jobs.watch("t1", last)] == [State.STATE_SUCCEEDED]


@pytest.mark.usefixtures("run")
def test_a_watch_whose_first_try_fails_begins_with_the_job(
    client: Client, gateway: FakeGateway, world: World
) -> None:
    last = world.events[-1].cursor
    gateway.kill()
    told: list[e.CallError] = []

    def come_back(error: e.CallError) -> None:
        if not told:
            gateway.start()
        told.append(error)

    assert [event.job.state for event in client.jobs.watch("t1", last, on_wait=come_back)] == [
        State.STATE_SUCCEEDED
    ]
    assert told


def test_a_watch_gives_up_when_its_patience_ends(client: Client, gateway: FakeGateway) -> None:
    gateway.kill()
    with pytest.raises(e.Unavailable):
        list(client.jobs.watch("t1", patience_s=0))


@pytest.mark.usefixtures("run")
def test_waiting_returns_the_job_as_it_ended(client: Client) -> None:
    seen: list[gateway.JobEvent] = []
    job = client.jobs.get("t1").wait(on_event=seen.append)
    assert (job.state, job.done) == ("SUCCEEDED", True)
    assert len(seen) == 13


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (State.STATE_FAILED, e.JobFailed),
        (State.STATE_CANCELLED, e.JobCancelled),
        (State.STATE_REJECTED, e.JobRejected),
    ],
)
def test_waiting_tells_how_a_job_ended(
    state: State.ValueType, kind: type[e.JobEnded], client: Client, world: World
) -> None:
    failure = Failure(reason="MEMORY_OVERRUN", message="it used 3 of 2 GiB", metadata={"device": "host"})
    happen(world, now(state, failure=failure))
    with pytest.raises(kind, match="it used 3 of 2 GiB") as caught:
        client.jobs.get("t1").wait()
    assert caught.value.reason == "MEMORY_OVERRUN"
    assert caught.value.metadata == {"device": "host"}
    assert caught.value.job.done


def test_waiting_ends_after_its_time(client: Client, world: World) -> None:
    happen(world, now(State.STATE_RUNNING))
    with pytest.raises(e.DeadlineExceeded, match=r"has not ended after 0\.3 s; it goes on"):
        client.jobs.get("t1").wait(timeout_s=0.3)


def test_logs_go_on_after_the_last_line_seen(client: Client, world: World) -> None:
    world.lines = [f"line {number}" for number in range(5)]
    world.break_after_events = [1, 0]
    assert [line.text for line in client.jobs.logs("t1", follow=True)] == world.lines


def test_jobs_are_changed_by_their_short_names(client: Client, world: World) -> None:
    assert client.jobs.cancel("t1").state == "CANCELLING"
    assert client.jobs.resume("t1").state == "QUEUED"
    client.jobs.delete("t1")
    assert {request.name for request in world.requests if hasattr(request, "name")} == {JOB}


@pytest.mark.parametrize("verb", ["cancel", "resume", "refresh"])
def test_a_job_can_be_told_itself(verb: str, client: Client) -> None:
    job = client.jobs.get("t1")
    assert getattr(job, verb)() is job


def test_a_missing_job_is_not_found(client: Client) -> None:
    with pytest.raises(e.NotFound, match="trainingJobs/t9 does not exist"):
        client.jobs.get("t9")


def test_threads_share_a_client(client: Client) -> None:
    found: list[str] = []
    calls: list[Callable[[], None]] = [lambda: found.append(client.jobs.get("t1").id)] * 8
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["t1"] * 8
