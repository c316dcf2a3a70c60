"""Options of text tasks that cancel each other out, or that a loss passes over."""

from collections.abc import Iterator

from services.common.errors import InvalidSpec
from services.common.specs import Task, TextOptions, TrainingSpec

# In trl, the other losses take no notice of it; its plain sigmoid used to.
_SMOOTHED = frozenset({"exo_pair", "robust", "aot", "aot_unpaired"})


def preference(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """Weights, smoothing and reference have to go with the losses."""
    options = spec.preference
    if options is None:
        return
    losses = options.loss_type or ("sigmoid",)
    if options.loss_weights and len(losses) != len(options.loss_weights):
        given = f"{len(options.loss_weights)} weights"
        yield InvalidSpec("preference.loss_weights", given, f"there are {len(losses)} loss types")
    if "exo_pair" in losses and not options.label_smoothing:
        limit = "exo_pair needs it above 0, such as 0.1"
        yield InvalidSpec("preference.label_smoothing", options.label_smoothing or 0, limit)
    if options.label_smoothing and not _SMOOTHED & set(losses):
        limit = f"{' and '.join(losses)} would pass over it: use loss_type robust, or leave it out"
        yield InvalidSpec("preference.label_smoothing", options.label_smoothing, limit)
    if options.precompute_ref_log_probs and spec.lora is not None:
        limit = "the reference is the model with its adapter off, which takes no memory: leave it out"
        yield InvalidSpec("preference.precompute_ref_log_probs", True, limit)


def preference_and_text(spec: TrainingSpec) -> Iterator[InvalidSpec]:
    """Two answers are compared as they are: what changes a text's loss has no meaning there."""
    if spec.task is not Task.DPO:
        return
    text = spec.text or TextOptions()
    smoothing = None if spec.training is None else spec.training.label_smoothing_factor
    if smoothing:
        limit = "dpo smooths by preference.label_smoothing: set that instead"
        yield InvalidSpec("training.label_smoothing_factor", smoothing, limit)
    if text.packing:
        limit = "pairs of answers are not packed: leave it out, or lower max_length"
        yield InvalidSpec("text.packing", True, limit)
    if text.neftune_noise_alpha:
        # The reference would be noisy too where it is the same model without its adapter.
        limit = "noise would stand in the probabilities that dpo compares: leave it out, or use sft"
        yield InvalidSpec("text.neftune_noise_alpha", text.neftune_noise_alpha, limit)
    for field in ("assistant_only_loss", "completion_only_loss"):
        if getattr(text, field):
            limit = "dpo always looks at the answers only: leave it out"
            yield InvalidSpec(f"text.{field}", True, limit)
