"""What a person should know about a spec that is allowed all the same."""

from collections.abc import Iterator

from services.common.specs import (
    DatasetSummary,
    DeviceKind,
    Optimizer,
    PlacementOptions,
    PreferenceOptions,
    Task,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.architecture import Architecture

_EIGHT_BIT = (Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW_8BIT)


def notes_on(spec: TrainingSpec, dataset: DatasetSummary | None, architecture: Architecture) -> Iterator[str]:
    """Yield a sentence for each surprise in a filled spec."""
    training, preference = spec.training or TrainingOptions(), spec.preference or PreferenceOptions()
    placement = spec.placement or PlacementOptions()
    if spec.task is Task.SFT and training.label_smoothing_factor and not architecture.has_encoder:
        yield (
            "label smoothing needs every token's logits over the whole vocabulary at once, and a second "
            "forward pass: it is weighed so, and takes longer"
        )
    if preference.precompute_ref_log_probs:
        yield (
            "the reference's log-probabilities are computed once, before the first step: the same losses as "
            "with a second model, for half the memory"
        )
    if training.optim in _EIGHT_BIT and placement.device is DeviceKind.CPU:
        yield f"{training.optim} saves memory on a GPU; on a CPU it is weighed as if its state were whole"
    if "mamba" in architecture.config.model_type:
        yield (
            "where the trainer cannot import mamba_ssm and causal_conv1d, this model loops over tokens: seen "
            "at 19 s a step for 370 million parameters and 2 x 512 tokens on a GPU of 2023"
        )
    if spec.model.gguf is not None:
        yield "the weights of a GGUF file are unpacked when it is read: they take 16 or 32 bits each"
    if dataset is not None and dataset.text is not None and dataset.text.duplicate_count:
        yield f"{dataset.text.duplicate_count} of the data set's rows repeat an earlier one word for word"
