"""The job of a run, from its spec to its artifact, as one paragraph."""

import json
import logging
from collections.abc import Mapping

import torch
from transformers import AutoConfig, PreTrainedConfig, PrinterCallback
from transformers.utils import logging as transformers_logging

from services.common.specs import CheckpointOptions, EvaluationOptions, ResolvedModel, ResolvedSpec
from services.trainer.recipes import Recipe, Weights, recipe_for
from services.trainer.recipes.fields import need
from services.trainer.recipes.model import label_names
from services.trainer.recipes.trainer import RecipeTrainer
from services.trainer.runs.directory import RunDirectory
from services.trainer.runs.records import StartPhase
from services.trainer.work.artifact import write_artifact
from services.trainer.work.best import BestWeights
from services.trainer.work.callbacks import Obeying, Pacing, Telling
from services.trainer.work.data import open_data
from services.trainer.work.environment import detect_hardware, threads_for, usable_cores
from services.trainer.work.events import EventWriter
from services.trainer.work.gpu import prepare_gpu
from services.trainer.work.inputs import RunInputs
from services.trainer.work.memory import MemoryWatch
from services.trainer.work.report import report_on
from services.trainer.work.saving import Saving
from services.trainer.work.stopping import Stopped, StopRequest
from services.trainer.work.weights import read_weights

log = logging.getLogger(__name__)


def run_job(
    directory: RunDirectory, inputs: RunInputs, events: EventWriter, watch: MemoryWatch, stop: StopRequest
) -> Mapping[str, float]:
    """Train what the spec says and leave the artifact in the run's directory; return its figures.

    Raises:
        Stopped: it was asked to stop; what can be gone on from is written.
        BadItem, BadCheckpoint, FetchFailed, Diverged, ServiceError: see `failures`.
    """
    _quiet_libraries()
    resolved = inputs.resolved
    recipe = recipe_for(resolved.spec.task)
    config = _config(resolved.model)
    events.phase(StartPhase.FETCHING_DATA)
    data = open_data(inputs, label_names(config), need(resolved.spec.seed, "seed"))
    weights = _weights(inputs, events)
    events.phase(StartPhase.BUILDING)
    prepare_gpu(inputs, watch)
    trainer = _build(recipe, inputs, config, weights, events)
    telling = Telling(events, watch)
    best = BestWeights(trainer, directory.checkpoints / ".best", _evaluation(resolved))
    # It prints what `Telling` logs.
    trainer.remove_callback(PrinterCallback)
    # In this order: what is told and kept of a step comes before the decision whether it was the last.
    for callback in (telling, best, Pacing(trainer, data.train), Obeying(trainer, stop)):
        trainer.add_callback(callback)
    saving = Saving(directory, trainer, best, telling, events)
    trainer.attach(
        data.train, data.held_out, _evaluation(resolved), resolved.spec.checkpointing or CheckpointOptions()
    )
    # From here on a stop waits for the end of a step, and an artifact that is being written is finished.
    with stop.deferred():
        _train(trainer, inputs, saving, stop)
        best.load_best()
        report = report_on(trainer, data, best, watch.peaks())
        write_artifact(directory, trainer, inputs, data, report)
    return report.figures


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


def _weights(inputs: RunInputs, events: EventWriter) -> Weights | None:
    # A checkpoint of a full training holds every weight; that of an adapter leaves out what it stands on.
    if inputs.start_from is not None and inputs.resolved.spec.lora is None:
        return None
    return read_weights(inputs, events)


def _build(
    recipe: Recipe, inputs: RunInputs, config: PreTrainedConfig, weights: Weights | None, events: EventWriter
) -> RecipeTrainer:
    spec = inputs.resolved.spec
    trainer = recipe.build(spec, config, weights, hardware=detect_hardware(inputs.record.device))
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    torch.set_num_threads(threads_for(parameters, trainer.args.per_device_train_batch_size, usable_cores()))
    trainable = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    for notice in (*trainer.notices, f"{trainable:,} of {parameters:,} parameters are trained"):
        events.notice(notice)
        log.info(notice)
    return trainer


def _train(trainer: RecipeTrainer, inputs: RunInputs, saving: Saving, stop: StopRequest) -> None:
    start = inputs.start_from
    if start is not None and not saving.go_on_from(start, inputs.resolved.spec.lora is not None):
        return
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except Stopped:
        # In the middle of an evaluation: the last step is done, and nothing of it written.
        saving.write()
        raise
    if stop.asked:
        raise Stopped
