"""A training spec as a short YAML file, and back.

    task: image_classification
    model: {hub: google/vit-base-patch16-224}
    dataset: digits
    training:
      learning_rate: 1e-3
      num_train_epochs: 5
    scheduling: {max_duration: 2h30m}

Keys are the contract's field names; values of enums are their short names in lower case; names of data sets,
jobs and nodes may be short. Every fault of a file is reported at once, each with its line and its field.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weighbridge.common.v1.training_spec_pb2 import TrainingSpec
from weighbridge.config import DEFAULT_PROJECT
from weighbridge.exceptions import Problem, SpecError
from weighbridge.spec_file.reader import Reader
from weighbridge.spec_file.tree import Keys, Tree, from_plain
from weighbridge.spec_file.writer import to_plain

__all__ = ["dump", "load", "loads", "parse"]

MAX_BYTES = 1 << 20


def load(path: str | Path, project: str = DEFAULT_PROJECT) -> TrainingSpec:
    """Return the spec that a YAML file describes; `project` completes short names.

    Raises:
        SpecError: the file is missing, is no YAML, or has faults; all of them are listed.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "is no UTF-8 text: this is no spec") from error
    if len(data) > MAX_BYTES:
        raise _unreadable(path, f"is larger than {MAX_BYTES >> 20} MiB: this is no spec")
    return loads(text, project, str(path))


def loads(text: str, project: str = DEFAULT_PROJECT, source: str = "spec") -> TrainingSpec:
    """Return the spec that YAML text describes; `source` names it in errors.

    Raises:
        SpecError: as for `load`.
    """
    # PyYAML comes with the extra `cli`; a spec given as a mapping does without.
    from weighbridge.spec_file.yaml_tree import read

    tree, problems = read(text, source)
    return _spec(tree, project, source, problems)


def parse(plain: Mapping[str, Any], project: str = DEFAULT_PROJECT, source: str = "spec") -> TrainingSpec:
    """Return the spec that a mapping describes, with the same keys and values as the YAML file.

    Raises:
        SpecError: as for `load`.
    """
    return _spec(from_plain(plain), project, source, [])


def dump(spec: TrainingSpec, project: str = DEFAULT_PROJECT) -> str:
    """Return a spec as YAML text that `loads` with the same project reads back as the same spec."""
    from weighbridge.spec_file.yaml_tree import write

    return write(to_plain(spec, project))


def _unreadable(path: Path, message: str) -> SpecError:
    return SpecError(str(path), (Problem(0, "", message),))


def _spec(tree: Tree, project: str, source: str, problems: list[Problem]) -> TrainingSpec:
    reader = Reader(TrainingSpec.DESCRIPTOR, project)
    spec = TrainingSpec()
    if isinstance(tree, Keys):
        reader.fill(spec, tree)
    else:
        problems = [*problems, Problem(tree.line, "", "expected keys such as `task:` and `model:`")]
    if problems or reader.problems:
        raise SpecError(source, tuple(sorted([*problems, *reader.problems])))
    return spec
