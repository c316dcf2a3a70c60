"""A job from its creation to its artifact, and what its callers see of it."""

import pytest

from tests.gateway.rig import Rig, State, refused, request
from weighbridge.common.v1 import training_spec_pb2
from weighbridge.gateway.v1 import resources_pb2, service_pb2
from weighbridge.hardware.v1 import resources_pb2 as hardware_pb2
from weighbridge.hardware.v1.service_pb2 import ListOutcomesRequest
from weighbridge.trainer.v1 import resources_pb2 as trainer_pb2

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_job_goes_from_its_creation_to_its_artifact(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(need=40)
    _, run = await rig.training(name)
    await node.trainer.progress(run, 10)
    await node.trainer.succeed(run, rig.tree(model=b"the weights"))
    job = await rig.in_state(name)
    assert job.state == State.STATE_SUCCEEDED
    assert [attempt.node for attempt in job.attempts] == [node.name]
    assert job.attempts[0].state == trainer_pb2.RUN_STATE_SUCCEEDED
    assert job.attempts[0].approval.amounts[0].reserved_bytes == 40
    assert job.attempts[0].approval.token == ""
    assert job.estimate.placements[0].host.peak_reserved_bytes == 40
    assert job.verdict.decision == hardware_pb2.DECISION_ADMIT
    assert job.resolved_spec.model.model_type == "vit"
    assert job.caller == "user/alice"
    assert not job.conditions
    assert not node.reservations
    downloaded = rig.alice.stream(
        "DownloadArtifact", service_pb2.DownloadArtifactRequest(name=name, path="model")
    )
    answers = [answer async for answer in downloaded]
    assert answers[0].file.path == "model"
    assert b"".join(answer.data for answer in answers) == b"the weights"


async def test_a_download_goes_on_from_an_offset(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await node.trainer.succeed(run, rig.tree(model=b"0123456789"))
    await rig.in_state(name)
    asked = service_pb2.DownloadArtifactRequest(name=name, path="model", offset=7)
    assert b"".join([answer.data async for answer in rig.alice.stream("DownloadArtifact", asked)]) == b"789"


async def test_a_job_that_fits_nowhere_is_rejected_with_the_verdict(rig: Rig) -> None:
    await rig.node(capacity_bytes=100)
    rig.estimator.offers_plans = True
    job = await rig.in_state(await rig.create(need=101))
    rig.estimator.offers_plans = False
    assert job.state == State.STATE_REJECTED
    assert job.failure.reason == "DOES_NOT_FIT"
    assert job.verdict.decision == hardware_pb2.DECISION_REJECT
    assert "needs 101" in job.verdict.summary
    assert len(job.verdict.plans) == 1
    assert not job.attempts


async def test_without_a_node_a_job_queues_and_says_so(rig: Rig) -> None:
    name = await rig.create()
    job = await rig.in_state(name, State.STATE_QUEUED)
    assert job.conditions[0].type == resources_pb2.CONDITION_TYPE_NO_NODES
    node = await rig.node()
    await rig.training(name)
    assert node.reservations


async def test_a_failed_run_fails_its_job_without_a_retry(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    await node.trainer.fail(run, "MEMORY_OVERRUN")
    job = await rig.in_state(name)
    assert job.state == State.STATE_FAILED
    assert job.failure.reason == "MEMORY_OVERRUN"
    assert len(job.attempts) == 1


async def test_each_run_leaves_its_prediction_beside_the_measurement(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(need=33)
    _, run = await rig.training(name)
    await node.trainer.succeed(run, rig.tree())
    await rig.in_state(name)
    outcomes = (await rig.alice.ListOutcomes(ListOutcomesRequest())).outcomes
    assert outcomes[0].run == run
    assert (outcomes[0].predicted_bytes, outcomes[0].measured_bytes) == (33, 77)
    assert outcomes[0].product == "Fake CPU"
    assert run not in [
        outcome.run for outcome in (await rig.bob.ListOutcomes(ListOutcomesRequest())).outcomes
    ]


async def test_every_decision_is_in_the_audit_trail(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create(need=20)
    await rig.run_of(name)
    asked = service_pb2.ListAdmissionsRequest(parent="projects/-", job=name)
    entries = (await rig.alice.ListAdmissions(asked)).admissions
    assert [(entry.node, entry.attempt) for entry in entries] == [(node.name, 1), ("", 0)]
    assert entries[0].amounts[0].reserved_bytes == 20
    assert entries[0].caller == "user/alice"
    assert entries[0].spec_sha256 == (await rig.job(name)).spec_sha256
    assert (
        await refused(rig.bob.ListAdmissions(service_pb2.ListAdmissionsRequest(parent="projects/default")))
    ).reason == ("PERMISSION_DENIED")


async def test_a_check_weighs_and_creates_nothing(rig: Rig) -> None:
    await rig.node(capacity_bytes=100)
    checking = service_pb2.CheckTrainingJobRequest(parent="projects/default", spec=request(need=60).spec)
    fits = await rig.alice.CheckTrainingJob(checking)
    assert fits.verdict.decision == hardware_pb2.DECISION_ADMIT
    assert fits.warnings == ["resolved by a fake"]
    checking.spec.labels["need"] = "600"
    assert (await rig.alice.CheckTrainingJob(checking)).verdict.decision == hardware_pb2.DECISION_REJECT
    trail = await rig.alice.ListAdmissions(
        service_pb2.ListAdmissionsRequest(parent="projects/default", page_size=2)
    )
    assert [entry.job for entry in trail.admissions] == ["", ""]


async def test_logs_and_predictions_come_from_the_trainer_of_the_attempt(rig: Rig) -> None:
    node = await rig.node()
    name = await rig.create()
    _, run = await rig.training(name)
    logs = rig.alice.stream("StreamTrainingLogs", service_pb2.StreamTrainingLogsRequest(name=name, offset=1))
    texts = [line.text async for answer in logs for line in answer.lines]
    assert texts == [f"{run} line 1", f"{run} line 2"]
    classify = service_pb2.ClassifyImagesRequest(name=name, images=[b"x", b"y"])
    assert (await refused(rig.alice.ClassifyImages(classify))).reason == "WRONG_STATE"
    tree = rig.tree()
    await node.trainer.succeed(run, tree)
    await rig.in_state(name)
    found = (await rig.alice.ClassifyImages(classify)).classifications
    assert [each.scores[0].label for each in found] == [tree.digest] * 2


async def test_a_check_of_text_needs_no_data_yet(rig: Rig) -> None:
    await rig.node()
    checking = service_pb2.CheckTrainingJobRequest(parent="projects/default", spec=request().spec)
    checking.spec.dataset = "projects/default/datasets/none"
    assert (await refused(rig.alice.CheckTrainingJob(checking))).reason == "NOT_FOUND"
    checking.spec.task = training_spec_pb2.TASK_SFT
    warnings = (await rig.alice.CheckTrainingJob(checking)).warnings
    assert "projects/default/datasets/none does not exist: data of a typical size is assumed" in warnings


async def test_the_estimator_is_asked_about_the_fleet(rig: Rig) -> None:
    node = await rig.node()
    asking = service_pb2.RecommendPlansRequest(parent="projects/default", spec=request().spec)
    unavailable = await refused(rig.alice.RecommendPlans(asking))
    assert unavailable.reason == "NOT_AVAILABLE"
    rig.estimator.offers_plans = True
    assert (await rig.alice.RecommendPlans(asking)).plans[0].spec == asking.spec
    rig.estimator.offers_plans = False
    about = rig.estimator.asked_about
    assert [each.name for each in about.nodes] == [node.name]
    assert about.dataset.name == asking.spec.dataset
    models = service_pb2.RecommendModelsRequest(task=training_spec_pb2.TASK_SFT)
    assert (await refused(rig.alice.RecommendModels(models))).reason == "NOT_AVAILABLE"
    largest = service_pb2.FindLargestFeasibleRequest(
        parent="projects/default", spec=request().spec, field="training.per_device_train_batch_size"
    )
    assert (await refused(rig.alice.FindLargestFeasible(largest))).reason == "NOT_AVAILABLE"
