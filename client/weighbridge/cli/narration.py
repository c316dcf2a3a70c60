"""A job's events in sentences: what changed, and nothing twice."""

import re
from collections.abc import Iterator

from rich.text import Text

from weighbridge.cli import words
from weighbridge.cli.views_verdict import limit_lines, sentence
from weighbridge.common.v1.training_spec_pb2 import ModelSource, Task, TrainingSpec
from weighbridge.following import State
from weighbridge.gateway.v1.resources_pb2 import Attempt, Condition, ConditionType, JobEvent, TrainingJob
from weighbridge.hardware.v1.resources_pb2 import Decision
from weighbridge.jobs import state_name
from weighbridge.names import short
from weighbridge.trainer.v1.resources_pb2 import NoticeLevel, Progress, RunState

STATE_STYLES = {
    "RUNNING": "bold cyan",
    "STARTING": "cyan",
    "SUCCEEDED": "bold green",
    "FAILED": "bold red",
    "REJECTED": "bold red",
    "CANCELLING": "yellow",
    "CANCELLED": "yellow",
    "QUEUED": "yellow",
}
# Where a condition says nothing itself.
_CONDITIONS = {
    ConditionType.CONDITION_TYPE_WAITING: "for memory",
    ConditionType.CONDITION_TYPE_NO_NODES: "no node is known yet",
    ConditionType.CONDITION_TYPE_NODE_UNREACHABLE: "the node does not answer",
    ConditionType.CONDITION_TYPE_TRAINER_DOWN: "the node's trainer does not answer",
    ConditionType.CONDITION_TYPE_FETCHING_DATA: "fetching data",
    ConditionType.CONDITION_TYPE_DOWNLOADING_WEIGHTS: "downloading weights",
    ConditionType.CONDITION_TYPE_BUILDING: "importing libraries, building the model",
    ConditionType.CONDITION_TYPE_RETRYING: "the attempt was lost, the next one is on its way",
    ConditionType.CONDITION_TYPE_ESTIMATOR_UNAVAILABLE: "the estimator does not answer, it is tried again",
}
_SIZE = re.compile(r"\d+(\.\d+)? [KMGT]iB")
_LOST = RunState.RUN_STATE_LOST
_RUNS = (State.STATE_STARTING, State.STATE_RUNNING)


class Narrator:
    """Tells a job's events one after the other; `job` is the job as it was last seen.

    A watch without a cursor begins with the job as it is, then tells its life from the start, each event with
    the state of its time and all else as it is today: this puts what is told back into its order.
    """

    def __init__(self, *, resumed: bool) -> None:
        """Begin. `resumed`: what the first event shows was told before, since the watch has a cursor."""
        self.job = TrainingJob()
        self._told = TrainingJob()
        self._resumed = resumed
        self._cursor: str | None = None
        self._weighed = False
        self._attempts: set[str] = set()

    def tell(self, event: JobEvent) -> Iterator[Text]:
        """Yield what is new in an event, but for progress, which has a place of its own."""
        if event.HasField("job"):
            yield from self._tell_job(event)
        elif event.HasField("evaluation"):
            figures = words.metrics(dict(event.evaluation.metrics))
            yield Text(f"evaluation at step {event.evaluation.step}: {figures}")
        elif event.HasField("checkpoint"):
            size = words.size(event.checkpoint.size_bytes)
            yield Text(f"checkpoint at step {event.checkpoint.step} is safe ({size})", "dim")
        elif event.HasField("notice"):
            warning = event.notice.level == NoticeLevel.NOTICE_LEVEL_WARNING
            yield Text(event.notice.message, "yellow" if warning else "dim")
        self._cursor = event.cursor

    def _tell_job(self, event: JobEvent) -> Iterator[Text]:
        before, self.job = self._told, event.job
        if self._cursor is None:
            yield Text.assemble((short(event.job.name), "bold"), f": {what(event.job.spec)}")
            if self._resumed:
                # Taken as told.
                list(self._news(event.job, event.attempt))
        elif self._cursor == event.cursor:
            # The job as it is, out of turn: its states are events of their own and come in theirs.
            yield from _conditions(before, event.job)
            before.ClearField("conditions")
            before.conditions.extend(event.job.conditions)
        else:
            yield from self._changes(before, event.job, event.attempt)
            self._told = event.job

    def _changes(self, before: TrainingJob, now: TrainingJob, attempt: int) -> Iterator[Text]:
        yield from self._news(now, attempt)
        if now.state != before.state:
            yield state_line(now)
        yield from _conditions(before, now)

    def _news(self, now: TrainingJob, attempt: int) -> Iterator[Text]:
        """Yield what is told once: the verdict, and of each attempt where it runs and that it was lost."""
        # A past event shows the job with all that is known by now: what came later is told later.
        if _is_weighed(now) and not self._weighed:
            self._weighed = True
            yield from (Text(f"warning: {warning}", "yellow") for warning in now.warnings)
            yield from _verdict(now)
        for each in now.attempts:
            # A state before or after the runs of the current attempt is one in which that attempt is over.
            if each.attempt < attempt or (each.attempt == attempt and now.state not in _RUNS):
                yield from self._once(each, f"was lost: {each.failure.message}", each.state == _LOST)
            elif each.attempt == attempt:
                yield from self._once(each, f"on {short(each.node)}", True)

    def _once(self, attempt: Attempt, text: str, holds: bool) -> Iterator[Text]:
        line = f"attempt {attempt.attempt} {text}"
        if holds and line not in self._attempts:
            self._attempts.add(line)
            yield Text(line)


def _is_weighed(job: TrainingJob) -> bool:
    return job.state not in (State.STATE_UNSPECIFIED, State.STATE_PENDING, State.STATE_WEIGHING)


def _verdict(job: TrainingJob) -> Iterator[Text]:
    # That of a rejected job is shown whole at the end.
    if job.verdict.decision and job.state != State.STATE_REJECTED:
        yield sentence(job.verdict)
        for line in (line for node in job.verdict.nodes[:1] for line in limit_lines(node)):
            yield Text(f"  {line}", "dim")


def _conditions(before: TrainingJob, now: TrainingJob) -> Iterator[Text]:
    known = set(map(_stage, before.conditions))
    yield from (Text(describe(condition)) for condition in now.conditions if _stage(condition) not in known)


def _stage(condition: Condition) -> tuple[object, ...]:
    """Return what makes a condition worth telling again: each quarter of a transfer, who holds what."""
    quarter = 4 * condition.done_bytes // condition.total_bytes if condition.total_bytes else 0
    # How much of it, changes with every report of a node.
    return condition.type, _SIZE.sub("", condition.message), condition.position, quarter


def what(spec: TrainingSpec) -> str:
    """Return `sft of some/model on some-data`."""
    text = f"{words.enum_word(Task.Name(spec.task), 'TASK_')} of {_model(spec.model)}"
    return f"{text} on {short(spec.dataset)}" if spec.dataset else text


def _model(model: ModelSource) -> str:
    source = model.WhichOneof("source")
    if source == "config":
        return f"{dict(model.config).get('model_type', 'a model')} from scratch"
    if source == "job":
        return f"job {short(model.job)}'s model"
    return str(getattr(model, source)) if source else "?"


def state_line(job: TrainingJob) -> Text:
    """Return the state, and what follows from a final one."""
    name = state_name(job.state)
    line = Text(name, STATE_STYLES.get(name, "bold"))
    if job.failure.message and job.verdict.decision != Decision.DECISION_REJECT:
        line.append(f": {job.failure.message}", "default")
    elif name == "SUCCEEDED":
        line.append(f": {words.metrics(dict(job.metrics))}" if job.metrics else "", "default")
    return line


def describe(condition: Condition) -> str:
    """Return a condition in words."""
    text = condition.message or _CONDITIONS.get(condition.type, "")
    if condition.position:
        text = f"waiting, number {condition.position} in the queue: {text}"
    if condition.total_bytes:
        text += f", {words.size(condition.done_bytes)} of {words.size(condition.total_bytes)}"
    return text


def progress_line(progress: Progress, job: TrainingJob) -> str:
    """Return how far a run is, how it learns, how fast, in how much memory of what is reserved."""
    share = progress.step / progress.total_steps if progress.total_steps else 0
    parts = [
        f"step {progress.step}/{progress.total_steps} ({share:.0%})",
        f"epoch {progress.epoch:.1f}",
        *figures(progress, job),
    ]
    return ", ".join(parts)


def figures(progress: Progress, job: TrainingJob) -> list[str]:
    """Return the figures of a progress event that are there, in words."""
    parts = [f"loss {progress.loss:.4f}", f"lr {progress.learning_rate:.2g}"]
    if progress.tokens_per_second:
        parts.append(f"{words.count(progress.tokens_per_second)} tokens/s")
    elif progress.examples_per_second:
        parts.append(f"{progress.examples_per_second:.1f} examples/s")
    parts += _memory(progress, job)
    if progress.HasField("eta"):
        parts.append(f"{words.duration(progress.eta.ToNanoseconds() / 1e9)} left")
    return parts


def _memory(progress: Progress, job: TrainingJob) -> list[str]:
    amounts = job.attempts[-1].approval.amounts if job.attempts else []
    reserved = {amount.device: amount.reserved_bytes for amount in amounts}
    texts = []
    for device in progress.memory:
        name = "memory" if device.device == "host" else "GPU memory"
        limit = f" of {words.size(reserved[device.device])}" if device.device in reserved else ""
        texts.append(f"{name} {words.size(device.used_bytes)}{limit}")
    return texts
