"""Options that contradict each other, whatever the model and the data are."""

from collections.abc import Callable, Iterator

from services.common.errors import InvalidSpec
from services.common.specs import TrainingSpec
from services.hardware.estimate.rules import adapters, evaluation, placement, tasks, text

Rule = Callable[[TrainingSpec], Iterator[InvalidSpec]]

_RULES: tuple[Rule, ...] = (
    tasks.options_of_other_tasks,
    adapters.quantization,
    adapters.experts,
    adapters.head,
    placement.precision,
    placement.cpu,
    placement.sharding,
    placement.offload,
    placement.kernels,
    evaluation.evaluation,
    text.preference,
    text.preference_and_text,
    tasks.reporting,
)


def refuse_contradictions(spec: TrainingSpec) -> None:
    """Pass a spec, as it was written, whose options go together. Raises InvalidSpec."""
    for rule in _RULES:
        for problem in rule(spec):
            raise problem
