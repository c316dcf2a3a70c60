"""What a training job is: 1:1 with the messages of weighbridge.common.v1, where every field is described.

`None` and empty mean "not given". A TrainingSpec may leave most things open, a ResolvedSpec nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Task(StrEnum):
    """What is trained."""

    IMAGE_CLASSIFICATION = "image_classification"
    SFT = "sft"
    DPO = "dpo"


class Augmentation(StrEnum):
    """A random change of a training image."""

    RANDOM_RESIZED_CROP = "random_resized_crop"
    RANDOM_HORIZONTAL_FLIP = "random_horizontal_flip"
    RANDOM_VERTICAL_FLIP = "random_vertical_flip"
    RANDOM_AFFINE = "random_affine"
    COLOR_JITTER = "color_jitter"
    TRIVIAL_AUGMENT_WIDE = "trivial_augment_wide"
    RAND_AUGMENT = "rand_augment"
    RANDOM_ERASING = "random_erasing"


class QuantizationMethod(StrEnum):
    """A storage format of frozen weights."""

    INT8 = "int8"
    NF4 = "nf4"


class Attention(StrEnum):
    """An implementation of attention."""

    AUTO = "auto"
    FLASH_ATTENTION_2 = "flash_attention_2"
    SDPA = "sdpa"
    EAGER = "eager"


class Precision(StrEnum):
    """The number format of the computation."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class SchedulerType(StrEnum):
    """A schedule of the learning rate, by transformers' name."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


class Optimizer(StrEnum):
    """An optimiser, by transformers' name."""

    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAMW_TORCH = "adamw_torch"
    ADAMW_8BIT = "adamw_8bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"
    ADAFACTOR = "adafactor"
    SGD = "sgd"


class IntervalStrategy(StrEnum):
    """When something recurs."""

    NO = "no"
    EPOCH = "epoch"
    STEPS = "steps"


class DeviceKind(StrEnum):
    """A kind of device that trains."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class ShardingStrategy(StrEnum):
    """A way to divide a job over devices."""

    DDP = "ddp"
    FSDP = "fsdp"


class Reporter(StrEnum):
    """A place that metrics go to."""

    NONE = "none"
    TENSORBOARD = "tensorboard"


class DatasetFormat(StrEnum):
    """What a data set holds."""

    IMAGE_FOLDER_ZIP = "image_folder_zip"
    JSONL = "jsonl"
    PARQUET = "parquet"
    CSV = "csv"


class RowShape(StrEnum):
    """What a row of text says."""

    TEXT = "text"
    MESSAGES = "messages"
    PROMPT_COMPLETION = "prompt_completion"
    PREFERENCE = "preference"


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where architecture and weights come from: exactly one of `hub`, `path`, `gguf`, `config` and `job`."""

    hub: str | None = None
    path: str | None = None
    gguf: str | None = None
    config: dict[str, Any] | None = None
    job: str | None = None
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """The options of image classification."""

    image_size: int | None = None
    augmentations: tuple[Augmentation, ...] = ()
    no_augmentations: bool = False
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """The options of training on text."""

    max_length: int | None = None
    packing: bool | None = None
    assistant_only_loss: bool | None = None
    completion_only_loss: bool | None = None
    dataset_text_field: str = ""
    neftune_noise_alpha: float | None = None
    router_aux_loss_coef: float | None = None
    chat_template: str = ""


@dataclass(frozen=True, kw_only=True)
class PreferenceOptions:
    """The options of direct preference optimisation."""

    beta: float | None = None
    loss_type: tuple[str, ...] = ()
    loss_weights: tuple[float, ...] = ()
    label_smoothing: float | None = None
    precompute_ref_log_probs: bool | None = None


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """A low-rank adapter, as peft's LoraConfig describes it."""

    r: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    target_modules: tuple[str, ...] = ()
    target_parameters: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    use_dora: bool | None = None
    use_rslora: bool | None = None


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How frozen weights are stored."""

    method: QuantizationMethod
    bnb_4bit_use_double_quant: bool | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Optimiser, schedule, batch and length, by the names of transformers' TrainingArguments."""

    num_train_epochs: float | None = None
    max_steps: int | None = None
    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    lr_scheduler_type: SchedulerType | None = None
    warmup_steps: float | None = None
    optim: Optimizer | None = None
    weight_decay: float | None = None
    adam_beta1: float | None = None
    adam_beta2: float | None = None
    max_grad_norm: float | None = None
    gradient_checkpointing: bool | None = None
    torch_compile: bool | None = None
    logging_steps: int | None = None
    dataloader_num_workers: int | None = None
    label_smoothing_factor: float | None = None
    use_liger_kernel: bool | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is held out and what is done with it."""

    validation_split: float | None = None
    eval_strategy: IntervalStrategy | None = None
    eval_steps: int | None = None
    per_device_eval_batch_size: int | None = None
    load_best_model_at_end: bool | None = None
    metric_for_best_model: str = ""
    early_stopping_patience: int | None = None
    early_stopping_threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When a checkpoint is written."""

    save_strategy: IntervalStrategy | None = None
    save_steps: int | None = None
    save_total_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class PlacementOptions:
    """On what the job runs."""

    device: DeviceKind | None = None
    device_count: int | None = None
    shared: bool | None = None
    node: str = ""
    expert_offload: bool | None = None
    activation_offload: bool | None = None
    sharding: ShardingStrategy | None = None


@dataclass(frozen=True, kw_only=True)
class SchedulingOptions:
    """How the queue treats the job."""

    priority: int | None = None
    max_duration_s: float | None = None
    retry_limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class SecretReference:
    """A secret that stands on the node, by name, and the environment variable that the worker sees it as."""

    env: str
    secret: str


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Everything about a training job."""

    task: Task
    model: ModelSource
    dataset: str
    image: ImageOptions | None = None
    text: TextOptions | None = None
    preference: PreferenceOptions | None = None
    lora: LoraOptions | None = None
    quantization: QuantizationOptions | None = None
    attn_implementation: Attention | None = None
    precision: Precision | None = None
    training: TrainingOptions | None = None
    evaluation: EvaluationOptions | None = None
    checkpointing: CheckpointOptions | None = None
    placement: PlacementOptions | None = None
    scheduling: SchedulingOptions | None = None
    secrets: tuple[SecretReference, ...] = ()
    report_to: tuple[Reporter, ...] = ()
    artifact_ttl_s: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """One file of a model: of its weights, or of its tokenizer."""

    path: str
    size_bytes: int
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model whose every byte is determined."""

    config_json: str
    model_type: str
    revision: str = ""
    weight_files: tuple[WeightFile, ...] = ()
    parameter_count: int = 0
    artifact_digest: str = ""
    location: str = ""
    processor_json: str = ""
    chat_template: str = ""
    processor_files: tuple[WeightFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LabelCount:
    """A label and its number of examples."""

    label: str
    count: int


@dataclass(frozen=True, kw_only=True)
class TextStatistics:
    """How long a text data set's rows are, in characters, and how often they repeat."""

    min_characters: int
    median_characters: int
    p95_characters: int
    max_characters: int
    duplicate_count: int = 0
    conversational: bool = False
    text_column: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetSummary:
    """What a job needs to know of its data."""

    name: str
    digest: str
    size_bytes: int
    format: DatasetFormat
    example_count: int
    labels: tuple[LabelCount, ...] = ()
    max_pixels: int = 0
    unpacked_bytes: int = 0
    row_shape: RowShape | None = None
    text: TextStatistics | None = None


@dataclass(frozen=True, kw_only=True)
class ResolvedSpec:
    """A spec in which nothing is left open."""

    spec: TrainingSpec
    model: ResolvedModel
    dataset: DatasetSummary
    resolver_version: str


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of a tree: its path relative to the tree, its bytes' digest and their number."""

    path: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class FileTree:
    """A directory in the content-addressed store: a checkpoint, or an artifact."""

    digest: str
    size_bytes: int
    files: tuple[FileEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A point from which a job can go on."""

    step: int
    digest: str
    size_bytes: int
    attempt: int
    epoch: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
