"""Making, reading and listing jobs: repeats, references, projects, pages."""

import asyncio

import pytest

from services.common.errors import InvalidSpec, NotFound, PermissionDenied, RequestIdReused, WrongState
from tests.gateway.archives import archive, good
from tests.gateway.rig import Rig, State, refused
from weighbridge.gateway.v1 import service_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


def listing(project: str = "many", **fields: object) -> service_pb2.ListTrainingJobsRequest:
    return service_pb2.ListTrainingJobsRequest(parent=f"projects/{project}", **fields)  # type: ignore[arg-type]


async def test_a_repeated_create_returns_the_first_job(rig: Rig) -> None:
    first = await rig.create(request_id="once")
    assert await rig.create(request_id="once") == first


async def test_creates_with_one_request_id_at_the_same_time_make_one_job(rig: Rig) -> None:
    names = await asyncio.gather(*(rig.create(request_id="together") for _ in range(10)))
    assert len(set(names)) == 1


async def test_a_request_id_with_another_body_is_refused(rig: Rig) -> None:
    first = await rig.create(request_id="twice", need=1)
    error = await refused(rig.create(request_id="twice", need=2))
    assert isinstance(error, RequestIdReused)
    assert error.resource == first


async def test_a_request_id_belongs_to_its_caller(rig: Rig) -> None:
    first = await rig.create(request_id="mine")
    assert await rig.create(rig.root, request_id="mine") != first


async def test_a_repeat_survives_a_killed_gateway(rig: Rig) -> None:
    first = await rig.create(request_id="killed")
    await rig.restart_gateway()
    assert await rig.create(request_id="killed") == first


async def test_a_spec_can_only_name_what_its_project_has(rig: Rig) -> None:
    missing = await refused(rig.create(dataset="projects/default/datasets/none"))
    assert isinstance(missing, NotFound)
    assert missing.resource == "projects/default/datasets/none"
    foreign = await refused(rig.create(dataset="projects/other/datasets/digits"))
    assert isinstance(foreign, InvalidSpec)
    assert foreign.field == "dataset"
    unknown = await refused(rig.create(base_job="projects/default/trainingJobs/unknown"))
    assert isinstance(unknown, NotFound)


async def test_a_model_from_a_job_needs_a_job_that_succeeded(rig: Rig) -> None:
    node = await rig.node()
    base = await rig.create()
    early = await refused(rig.create(base_job=base))
    assert isinstance(early, InvalidSpec)
    assert early.field == "model.job"
    assert "only a succeeded one" in str(early)
    _, run = await rig.training(base)
    await node.trainer.succeed(run, rig.tree())
    await rig.in_state(base)
    follower = await rig.create(base_job=base)
    in_use = await refused(rig.alice.DeleteTrainingJob(service_pb2.DeleteTrainingJobRequest(name=base)))
    assert in_use.reason == "IN_USE"
    await rig.cancel(follower)
    await rig.in_state(follower)
    await rig.alice.DeleteTrainingJob(service_pb2.DeleteTrainingJobRequest(name=base))


async def test_another_projects_job_does_not_exist(rig: Rig) -> None:
    name = await rig.create()
    for call in (
        rig.bob.GetTrainingJob(service_pb2.GetTrainingJobRequest(name=name)),
        rig.bob.CancelTrainingJob(service_pb2.CancelTrainingJobRequest(name=name)),
        rig.bob.ResumeTrainingJob(service_pb2.ResumeTrainingJobRequest(name=name)),
        rig.bob.DeleteTrainingJob(service_pb2.DeleteTrainingJobRequest(name=name)),
        rig.bob.ListTrainingCheckpoints(service_pb2.ListTrainingCheckpointsRequest(parent=name)),
        anext(rig.bob.watch(name)),
    ):
        error = await refused(call)
        assert isinstance(error, NotFound)
        assert error.resource == name
    same_id = name.replace("projects/default", "projects/other")
    assert isinstance(
        await refused(rig.bob.GetTrainingJob(service_pb2.GetTrainingJobRequest(name=same_id))), NotFound
    )
    assert isinstance(await refused(rig.bob.ListTrainingJobs(listing("default"))), PermissionDenied)
    assert isinstance(await refused(rig.create(rig.bob)), PermissionDenied)


async def test_jobs_are_listed_in_pages_newest_first(rig: Rig) -> None:
    await rig.upload("digits", archive(good()), project="many")
    fields = {"parent": "projects/many", "dataset": "projects/many/datasets/digits"}
    made = [await rig.create(**fields, labels=[("parity", str(number % 2))]) for number in range(7)]
    found: list[str] = []
    token = ""
    while True:
        page = await rig.alice.ListTrainingJobs(listing(page_size=3, page_token=token))
        assert not page.training_jobs[0].HasField("resolved_spec")
        found += [job.name for job in page.training_jobs]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]
    odd = await rig.alice.ListTrainingJobs(listing(labels={"parity": "1"}))
    assert [job.name for job in odd.training_jobs] == made[1::2][::-1]
    done = await rig.alice.ListTrainingJobs(listing(states=[State.STATE_SUCCEEDED]))
    assert not done.training_jobs
    stolen = await rig.alice.ListTrainingJobs(listing(page_size=3))
    error = await refused(rig.alice.ListTrainingJobs(listing("default", page_token=stolen.next_page_token)))
    assert error.reason == "INVALID_CURSOR"


async def test_a_live_job_cannot_be_deleted_and_a_deleted_one_is_gone(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    delete = service_pb2.DeleteTrainingJobRequest(name=name)
    assert isinstance(await refused(rig.alice.DeleteTrainingJob(delete)), WrongState)
    _, run = await rig.training(name)
    tree = rig.tree(model=b"only here")
    await node.trainer.succeed(run, tree)
    await rig.in_state(name)
    await rig.alice.DeleteTrainingJob(delete)
    assert isinstance(await refused(rig.job(name)), NotFound)
    await rig.until(lambda: run in node.trainer.deleted)
    await rig.until(lambda: not rig.store.exists(tree.files[0].digest))


async def test_a_job_cannot_be_made_from_a_request_without_a_spec(rig: Rig) -> None:
    error = await refused(
        rig.alice.CreateTrainingJob(service_pb2.CreateTrainingJobRequest(parent="projects/default"))
    )
    assert error.reason == "INVALID_REQUEST"
