"""A spec without gaps: the model pinned and read, every default filled in, every contradiction refused."""

import json

from transformers import PretrainedConfig

from services.common.specs import (
    DatasetSummary,
    FileTree,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TrainingSpec,
)
from services.hardware import __version__
from services.hardware.estimate.activations import of_images
from services.hardware.estimate.architecture import (
    Architecture,
    build_empty,
    find_architecture,
    read_config,
)
from services.hardware.estimate.contradictions import refuse_contradictions
from services.hardware.estimate.data import (
    assumed_dataset,
    assumed_labels,
    refuse_impossible_batch,
    refuse_other_rows,
    refuse_unreadable_rows,
    refuse_wrong_format,
    split,
)
from services.hardware.estimate.defaults import ModelFacts, fill
from services.hardware.estimate.labels import choose_labels, count_by_label, set_labels
from services.hardware.estimate.modelfit import own_image_size, refuse_misfit, set_image_size
from services.hardware.estimate.notes import notes_on
from services.hardware.estimate.rules.language_models import positions
from services.hardware.estimate.sources.reading import Places, read_source
from services.hardware.estimate.sources.source import Source
from services.trainer.recipes.model import head_names

_VERSION = f"weighbridge-{__version__}"


def resolve(
    spec: TrainingSpec,
    dataset: DatasetSummary | None,
    base_artifact: FileTree | None,
    project: str,
    places: Places,
) -> tuple[ResolvedSpec, list[str]]:
    """Return the resolved spec, and what a person should know about it.

    Raises:
        InvalidSpec: options contradict each other, the data or the model.
        InvalidModel: the model cannot be read.
    """
    # What costs nothing to refuse comes before the network and before torch.
    refuse_contradictions(spec)
    data = dataset or assumed_dataset(spec)
    refuse_wrong_format(spec, data)
    refuse_other_rows(spec, data)
    source = read_source(spec, base_artifact, project, places)
    config = read_config(source.name, source.config, by_hand=spec.model.config is not None)
    labels, warnings = _label(spec, dataset, config, source)
    architecture = find_architecture(source.name, config, spec.task)
    if labels:
        set_image_size(architecture, spec, pretrained=source.pretrained)
    else:
        refuse_unreadable_rows(spec, data, source, architecture)
    model = build_empty(architecture)
    # Counted before an adapter is tried on it.
    parameter_count = model.num_parameters()
    facts = ModelFacts(
        image_size=own_image_size(config, source.processor.settings_json),
        labels=labels,
        head_modules=head_names(model) if labels else (),
        supports_sdpa=bool(architecture.model_class._supports_sdpa),
        supports_checkpointing=bool(model.supports_gradient_checkpointing),
        positions=positions(config),
        has_encoder=architecture.has_encoder,
    )
    filled = fill(spec, facts, data)
    refuse_misfit(filled, architecture, model)
    if dataset is not None:
        _refuse_unfit_data(filled, dataset, labels)
    if labels:
        # One pass with shapes only: a model that does not take these images says so now.
        of_images(architecture, filled)
    warnings += notes_on(filled, dataset, architecture)
    model_facts = _model(source, architecture, parameter_count)
    return ResolvedSpec(spec=filled, model=model_facts, dataset=data, resolver_version=_VERSION), warnings


def _label(
    spec: TrainingSpec, dataset: DatasetSummary | None, config: PretrainedConfig, source: Source
) -> tuple[tuple[str, ...], list[str]]:
    """Write the labels into a classifier's configuration; return them and any warnings."""
    warnings: list[str] = []
    if dataset is None:
        warnings.append("without a data set usual sizes were assumed: the job may need more or less")
    if spec.task is not Task.IMAGE_CLASSIFICATION:
        return (), warnings
    labels = assumed_labels(spec) if dataset is None else choose_labels(spec, dataset)
    warnings += set_labels(config, labels, pretrained=source.pretrained)
    return labels, warnings


def _refuse_unfit_data(spec: TrainingSpec, dataset: DatasetSummary, labels: tuple[str, ...]) -> None:
    share = 0.0 if spec.evaluation is None else spec.evaluation.validation_split or 0.0
    refuse_impossible_batch(spec, split(share, dataset.example_count, count_by_label(labels, dataset)))


def _model(source: Source, architecture: Architecture, parameter_count: int) -> ResolvedModel:
    return ResolvedModel(
        config_json=json.dumps(architecture.config.to_dict(), sort_keys=True),
        model_type=architecture.config.model_type,
        revision=source.revision,
        weight_files=source.weight_files,
        parameter_count=parameter_count,
        artifact_digest=source.artifact_digest,
        location=source.location,
        processor_json=source.processor.settings_json,
        chat_template=source.processor.chat_template,
        processor_files=source.processor.files,
    )
