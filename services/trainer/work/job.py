"""The job of a run, from its spec to its artifact, as one paragraph."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from transformers import AutoConfig, PreTrainedConfig, PrinterCallback, set_seed
from transformers.utils import logging as transformers_logging

from services.common.specs import (
    CheckpointOptions,
    EvaluationOptions,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TrainingSpec,
)
from services.trainer.recipes import Recipe, Weights, recipe_for
from services.trainer.recipes.fields import need
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.records import StartPhase
from services.trainer.work.artifact import write_artifact
from services.trainer.work.best import BestWeights
from services.trainer.work.callbacks import Obeying, Pacing, Telling
from services.trainer.work.data import RunData, open_data
from services.trainer.work.environment import detect_hardware, threads_for, usable_cores
from services.trainer.work.events import EventWriter
from services.trainer.work.gpu import prepare_gpu
from services.trainer.work.inputs import RunInputs
from services.trainer.work.measures import measures_of
from services.trainer.work.memory import MemoryWatch
from services.trainer.work.merging import merged
from services.trainer.work.ranks import Ranks
from services.trainer.work.report import report_on
from services.trainer.work.saving import Saving
from services.trainer.work.stopping import Stopped, StopRequest
from services.trainer.work.weights import read_weights

log = logging.getLogger(__name__)


def run_job(
    directory: RunDirectory,
    inputs: RunInputs,
    events: EventWriter,
    watch: MemoryWatch,
    stop: StopRequest,
    ranks: Ranks,
) -> Mapping[str, float]:
    """Train what the spec says and leave the artifact in the run's directory; return its figures.

    Every rank of the run does this; only the first one writes, and tells what is not of its own alone.

    Raises:
        Stopped: it was asked to stop; what can be gone on from is written.
        BadItem, BadCheckpoint, FetchFailed, Diverged, ServiceError: see `failures`.
    """
    _quiet_libraries()
    resolved = inputs.resolved
    recipe = recipe_for(resolved.spec.task)
    config = _config(resolved.model)
    events.phase(StartPhase.FETCHING_DATA)
    # What comes from a hub, the first rank brings to the node's cache for all. Tokens each has for itself,
    # and they are the same: a file that nobody else reads has no name.
    with ranks.first_alone(resolved.spec.model.hub is not None):
        data = open_data(inputs, config, directory.path / _tokens_of(ranks), events)
        weights = _weights(inputs, config, events)
    events.phase(StartPhase.BUILDING)
    prepare_gpu(inputs, watch, ranks)
    trainer = _build(recipe, inputs, config, weights, data, events, ranks)
    best, saving = _listen(trainer, directory, inputs, data, events, watch, stop, ranks)
    trainer.attach(
        data.train, data.held_out, _evaluation(resolved), resolved.spec.checkpointing or CheckpointOptions()
    )
    # From here on a stop waits for the end of a step, and an artifact that is being written is finished.
    with stop.deferred():
        _train(trainer, inputs, saving, stop, ranks)
        # The first rank has written them by then.
        ranks.wait()
        best.load_best()
        report = report_on(trainer, resolved.spec.task, data, best, watch.peaks())
        ranks.part()
        if not ranks.is_first:
            return report.figures
        merge = partial(merged, recipe, trainer, inputs, config, data)
        write_artifact(directory, trainer, inputs, data, report, merge)
    return report.figures


def _tokens_of(ranks: Ranks) -> str:
    return "tokens" if ranks.is_first else f"tokens-{ranks.number}"


def _quiet_libraries() -> None:
    # Bars draw themselves over and over into a log file; loading reports repeat what the notices say.
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def _config(model: ResolvedModel) -> PreTrainedConfig:
    values = json.loads(model.config_json)
    values.pop("model_type", None)
    config: PreTrainedConfig = AutoConfig.for_model(model.model_type, **values)
    return config


def _evaluation(resolved: ResolvedSpec) -> EvaluationOptions:
    return resolved.spec.evaluation or EvaluationOptions()


def _weights(inputs: RunInputs, config: PreTrainedConfig, events: EventWriter) -> Weights | None:
    spec = inputs.resolved.spec
    # A checkpoint of a full training holds every weight; that of an adapter leaves out what it stands on, and
    # none holds the reference that preferences are learned against.
    if inputs.start_from is not None and spec.lora is None and spec.task is not Task.DPO:
        return None
    return read_weights(inputs, config, events)


def _build(
    recipe: Recipe,
    inputs: RunInputs,
    config: PreTrainedConfig,
    weights: Weights | None,
    data: RunData,
    events: EventWriter,
    ranks: Ranks,
) -> RecipeTrainer:
    spec = inputs.resolved.spec
    hardware = detect_hardware(inputs.record.device)
    trainer = recipe.build(spec, config, weights, hardware=hardware, tokenizer=data.tokenizer)
    trainer.order = data.order
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    cores = max(1, usable_cores() // ranks.count)
    torch.set_num_threads(threads_for(parameters, trainer.args.per_device_train_batch_size, cores))
    trainable = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    of_all = f"{trainable:,} of {parameters:,} parameters are trained"
    for notice in (*trainer.notices, of_all, *_divide(trainer, spec, ranks)):
        events.notice(notice)
        log.info(notice)
    return trainer


def _divide(trainer: RecipeTrainer, spec: TrainingSpec, ranks: Ranks) -> Sequence[str]:
    """Let each rank draw random numbers of its own; return what is to be told of how work is divided."""
    if ranks.count == 1:
        return ()
    # The model, drawn before, is the same on all. With the same numbers from here on, dropout would leave out
    # the same of every rank's examples.
    set_seed(need(spec.seed, "seed") + ranks.number)
    each, steps = trainer.args.per_device_train_batch_size, trainer.args.gradient_accumulation_steps
    return (
        f"{ranks.count} devices train together, each with the whole model (DDP): a step of the optimiser "
        f"takes {each} examples x {ranks.count} devices x {steps} accumulated = "
        f"{each * ranks.count * steps}",
    )


def _listen(
    trainer: RecipeTrainer,
    directory: RunDirectory,
    inputs: RunInputs,
    data: RunData,
    events: EventWriter,
    watch: MemoryWatch,
    stop: StopRequest,
    ranks: Ranks,
) -> tuple[BestWeights, Saving]:
    """Put what is done between steps into the trainer."""
    evaluation, measures = _evaluation(inputs.resolved), measures_of(inputs.resolved.spec.task)
    telling = Telling(events, watch, measures)
    best = BestWeights(trainer, directory.checkpoints / ".best", evaluation, measures, ranks)
    # It prints what `Telling` logs.
    trainer.remove_callback(PrinterCallback)
    # In this order: what is told and kept of a step comes before the decision whether it was the last.
    for callback in (telling, best, Pacing(trainer, data.begin_epoch), Obeying(trainer, stop, ranks)):
        trainer.add_callback(callback)
    return best, Saving(directory, trainer, best, telling, events, ranks)


def _train(
    trainer: RecipeTrainer, inputs: RunInputs, saving: Saving, stop: StopRequest, ranks: Ranks
) -> None:
    start = inputs.start_from
    if start is not None and not saving.go_on_from(start, inputs.resolved.spec.lora is not None):
        return
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except Stopped:
        # In the middle of an evaluation: the last step is done, and nothing of it written.
        saving.write()
        raise
    if ranks.agree(stop.asked):
        raise Stopped
