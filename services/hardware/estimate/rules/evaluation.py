"""What is evaluated, and what follows from it."""

from collections.abc import Iterator

from services.common.errors import InvalidSpec
from services.common.specs import EvaluationOptions, IntervalStrategy, Task, TrainingSpec
from services.hardware.estimate.nearest import did_you_mean

_METRICS = {
    Task.IMAGE_CLASSIFICATION: ("accuracy", "macro_f1", "loss"),
    Task.SFT: ("loss", "perplexity", "token_accuracy"),
    Task.DPO: ("loss", "reward_accuracy", "reward_margin"),
}


def evaluation(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """What depends on an evaluation needs one, and a metric has to be measured."""
    options = spec.evaluation
    if options is None:
        return
    metrics = _METRICS[spec.task]
    if options.metric_for_best_model and options.metric_for_best_model not in metrics:
        name = options.metric_for_best_model
        limit = f"{spec.task} measures {' and '.join(metrics)}{did_you_mean(name, metrics)}"
        yield InvalidSpec("evaluation.metric_for_best_model", name, limit)
    never = options.eval_strategy is IntervalStrategy.NO or options.validation_split == 0
    if never:
        yield from _without_evaluation(options)
    elif options.load_best_model_at_end:
        yield from _best_model(spec, options)


def _without_evaluation(evaluation: EvaluationOptions) -> Iterator[InvalidSpec]:
    why = "nothing is ever evaluated: set validation_split and eval_strategy, or leave it out"
    if evaluation.load_best_model_at_end:
        yield InvalidSpec("evaluation.load_best_model_at_end", True, why)
    if evaluation.early_stopping_patience:
        value = evaluation.early_stopping_patience
        yield InvalidSpec("evaluation.early_stopping_patience", value, why)
    if evaluation.validation_split == 0 and evaluation.eval_strategy not in (None, IntervalStrategy.NO):
        limit = "nothing is held out: set validation_split above 0"
        yield InvalidSpec("evaluation.eval_strategy", evaluation.eval_strategy, limit)


def _best_model(spec: TrainingSpec, evaluation: EvaluationOptions) -> Iterator[InvalidSpec]:
    """A best model can be kept only of what was both evaluated and saved."""
    saved = None if spec.checkpointing is None else spec.checkpointing.save_strategy
    evaluated = evaluation.eval_strategy or IntervalStrategy.EPOCH
    if (saved or IntervalStrategy.EPOCH) is not evaluated:
        limit = f"the best model is kept, so it has to be saved when it is evaluated: {evaluated}"
        yield InvalidSpec("checkpointing.save_strategy", saved or IntervalStrategy.EPOCH, limit)
    elif spec.checkpointing is not None and spec.checkpointing.save_steps and evaluation.eval_steps:
        steps = spec.checkpointing.save_steps
        if steps % evaluation.eval_steps:
            limit = (
                f"the best model is kept, so it has to be a multiple of eval_steps, {evaluation.eval_steps}"
            )
            yield InvalidSpec("checkpointing.save_steps", steps, limit)
