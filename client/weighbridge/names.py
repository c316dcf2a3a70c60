"""Resource names from the short ids that people type, and back."""

_JOBS, _DATASETS, _NODES = "trainingJobs", "datasets", "nodes"


def project_name(project: str) -> str:
    """Return `projects/{project}`."""
    return f"projects/{project}"


def job_name(project: str, job: str) -> str:
    """Return `projects/{project}/trainingJobs/{job}`; a full name stays as it is."""
    return job if "/" in job else f"projects/{project}/{_JOBS}/{job}"


def dataset_name(project: str, dataset: str) -> str:
    """Return `projects/{project}/datasets/{dataset}`; a full name stays as it is."""
    return dataset if "/" in dataset else f"projects/{project}/{_DATASETS}/{dataset}"


def node_name(node: str) -> str:
    """Return `nodes/{node}`; a full name stays as it is."""
    return node if "/" in node else f"{_NODES}/{node}"


def short(name: str) -> str:
    """Return the last part of a resource name: the id that people type."""
    return name.rpartition("/")[2]
