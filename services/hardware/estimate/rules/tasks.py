"""Options that belong to another task, and what is reported."""

from collections.abc import Iterator

from services.common.errors import InvalidSpec
from services.common.specs import Reporter, Task, TrainingSpec

TEXT_TASKS = (Task.SFT, Task.DPO)


def options_of_other_tasks(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """A block of options has to be the task's own."""
    if spec.image is not None and spec.task is not Task.IMAGE_CLASSIFICATION:
        yield InvalidSpec("image", "set", f"the task is {spec.task}: leave it out, or use text")
    if spec.text is not None and spec.task not in TEXT_TASKS:
        yield InvalidSpec("text", "set", f"the task is {spec.task}: leave it out, or use image")
    if spec.preference is not None and spec.task is not Task.DPO:
        limit = f"the task is {spec.task}: leave it out, or set the task to dpo"
        yield InvalidSpec("preference", "set", limit)


def reporting(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """`none` stands alone, and a variable holds one secret."""
    if Reporter.NONE in spec.report_to and len(spec.report_to) > 1:
        yield InvalidSpec("report_to", ", ".join(spec.report_to), "none goes with nothing else")
    names = [secret.env for secret in spec.secrets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        yield InvalidSpec("secrets", twice, "one variable holds one secret: name it once")
