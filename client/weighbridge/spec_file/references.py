"""Fields of a spec that name a resource, and how a short name is completed."""

from collections.abc import Callable

from weighbridge.common.v1.training_spec_pb2 import ModelSource, PlacementOptions, TrainingSpec
from weighbridge.names import dataset_name, job_name, node_name

_COMPLETE: dict[str, Callable[[str, str], str]] = {
    TrainingSpec.DESCRIPTOR.fields_by_name["dataset"].full_name: dataset_name,
    ModelSource.DESCRIPTOR.fields_by_name["job"].full_name: job_name,
    PlacementOptions.DESCRIPTOR.fields_by_name["node"].full_name: lambda _, node: node_name(node),
}


def complete(field: str, text: str, project: str) -> str:
    """Return the full name that `text` stands for in `field`; other fields keep their text."""
    return _COMPLETE[field](project, text) if field in _COMPLETE and text else text


def abbreviate(field: str, name: str, project: str) -> str:
    """Return the shortest text that `complete` makes `name` of."""
    short = name.rpartition("/")[2]
    return short if field in _COMPLETE and short and complete(field, short, project) == name else name
