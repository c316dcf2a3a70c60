"""What a spec names and the gateway knows: its data set, and the job that its model comes from."""

from dataclasses import dataclass

from gateway.jobs.states import JobState
from gateway.ledger.datasets import get_dataset
from gateway.ledger.engine import Transaction
from gateway.ledger.jobs import get_job
from gateway.packed import Packed
from services.common.errors import InvalidSpec, NotFound
from services.common.names import parse_dataset, parse_job, project_name
from services.common.specs import DatasetSummary, TrainingSpec


@dataclass(frozen=True)
class References:
    """What a spec's references stand for."""

    dataset: DatasetSummary
    base_job: str | None
    """Id of the job whose artifact is the model."""
    base_artifact: Packed | None
    base_digest: str


async def look_up(tx: Transaction, project: str, spec: TrainingSpec) -> References:
    """Find what a spec names.

    Raises:
        NotFound: there is no such data set or job.
        InvalidSpec: it belongs to another project, or the job has no artifact.
    """
    dataset = await _dataset(tx, project, spec.dataset)
    if spec.model.job is None:
        return References(dataset, None, None, "")
    owner, job_id = parse_job(spec.model.job, "spec.model.job")
    _refuse_other_project("model.job", spec.model.job, owner, project)
    job = await get_job(tx, job_id)
    if job is None or job.project != project:
        raise NotFound(spec.model.job)
    if job.state is not JobState.SUCCEEDED:
        limit = f"that job is {job.state} and only a succeeded one has a model"
        raise InvalidSpec("model.job", spec.model.job, limit)
    if job.artifact is None:
        raise InvalidSpec(
            "model.job", spec.model.job, "that job's artifact was kept for its time and deleted"
        )
    return References(dataset, job_id, job.artifact, job.artifact_digest)


async def _dataset(tx: Transaction, project: str, name: str) -> DatasetSummary:
    owner, dataset_id = parse_dataset(name, "spec.dataset")
    _refuse_other_project("dataset", name, owner, project)
    dataset = await get_dataset(tx, owner, dataset_id)
    if dataset is None:
        raise NotFound(name)
    return dataset.summary


def _refuse_other_project(field: str, name: str, owner: str, project: str) -> None:
    if owner != project:
        raise InvalidSpec(field, name, f"a job of {project_name(project)} can only use what belongs to it")
