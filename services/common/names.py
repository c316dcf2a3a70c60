"""Resource names: `projects/{project}/trainingJobs/{job}`, `nodes/{node}`, `runs/{job}-{attempt}` and more.

A `parse_…` function raises InvalidRequest for the field it is given when the name has another form.
"""

import re
import secrets

from services.common.errors import InvalidRequest

_ID = r"[a-z0-9][a-z0-9-]{0,62}"
_PROJECT = re.compile(rf"projects/({_ID})")
_JOB = re.compile(rf"projects/({_ID})/trainingJobs/([a-z0-9]{{1,62}})")
_DATASET = re.compile(rf"projects/({_ID})/datasets/([a-z0-9][a-z0-9._-]{{0,62}})")
_UPLOAD = re.compile(rf"projects/({_ID})/uploads/([a-z0-9]{{1,62}})")
_NODE = re.compile(r"nodes/([a-z0-9][a-z0-9.-]{0,62})")
_RUN = re.compile(r"runs/([a-z0-9]{1,62})-([1-9][0-9]{0,8})")
# Without i, l, o and u: ids are read aloud and typed.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_LENGTH = 16
_CHAT = "chat"


def new_id() -> str:
    """Return 16 random characters of `[a-z0-9]`, 80 bits: unique wherever they are made."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))


def project_name(project: str) -> str:
    """Return `projects/{project}`."""
    return f"projects/{project}"


def parse_project(name: str, field: str = "parent") -> str:
    """Return the project of `projects/{project}`."""
    return _match(_PROJECT, name, field, "projects/{project}")[0]


def job_name(project: str, job_id: str) -> str:
    """Return `projects/{project}/trainingJobs/{job_id}`."""
    return f"projects/{project}/trainingJobs/{job_id}"


def parse_job(name: str, field: str = "name") -> tuple[str, str]:
    """Return project and job id of a training job's name."""
    project, job_id = _match(_JOB, name, field, "projects/{project}/trainingJobs/{job}")
    return project, job_id


def dataset_name(project: str, dataset_id: str) -> str:
    """Return `projects/{project}/datasets/{dataset_id}`."""
    return f"projects/{project}/datasets/{dataset_id}"


def parse_dataset(name: str, field: str = "name") -> tuple[str, str]:
    """Return project and data set id of a data set's name."""
    project, dataset_id = _match(_DATASET, name, field, "projects/{project}/datasets/{dataset}")
    return project, dataset_id


def upload_name(project: str, upload_id: str) -> str:
    """Return `projects/{project}/uploads/{upload_id}`."""
    return f"projects/{project}/uploads/{upload_id}"


def parse_upload(name: str, field: str = "name") -> tuple[str, str]:
    """Return project and upload id of an upload session's name."""
    project, upload_id = _match(_UPLOAD, name, field, "projects/{project}/uploads/{upload}")
    return project, upload_id


def node_name(node_id: str) -> str:
    """Return `nodes/{node_id}`."""
    return f"nodes/{node_id}"


def parse_node(name: str, field: str = "name") -> str:
    """Return the node id of `nodes/{node}`."""
    return _match(_NODE, name, field, "nodes/{node}")[0]


def run_name(job_id: str, attempt: int) -> str:
    """Return `runs/{job_id}-{attempt}`."""
    return f"runs/{job_id}-{attempt}"


def chat_run_name() -> str:
    """Return a new run's name under which memory is reserved for a conversation.

    A job's id is 16 characters long; this one is longer, so it never is a job's.
    """
    return run_name(f"{_CHAT}{new_id()}", 1)


def is_chat_run(run: str) -> bool:
    """Say whether a run's name is that of a conversation."""
    job_id = parse_run(run)[0]
    return job_id.startswith(_CHAT) and len(job_id) > _ID_LENGTH


def parse_run(name: str, field: str = "run") -> tuple[str, int]:
    """Return job id and attempt of `runs/{job}-{attempt}`."""
    job_id, attempt = _match(_RUN, name, field, "runs/{job}-{attempt}")
    return job_id, int(attempt)


def _match(pattern: re.Pattern[str], name: str, field: str, form: str) -> tuple[str, ...]:
    found = pattern.fullmatch(name)
    if found is None:
        raise InvalidRequest({field: f"{name!r} does not have the form {form}"})
    return found.groups()
