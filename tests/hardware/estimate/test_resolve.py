import json
from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import InvalidModel, InvalidSpec, ServiceError
from services.common.spec_wire import parse_resolved, serialize_resolved
from services.common.specs import (
    Attention,
    Augmentation,
    CheckpointOptions,
    DatasetFormat,
    DatasetSummary,
    DeviceKind,
    EvaluationOptions,
    ImageOptions,
    IntervalStrategy,
    LabelCount,
    LoraOptions,
    ModelSource,
    PlacementOptions,
    Precision,
    PreferenceOptions,
    QuantizationMethod,
    QuantizationOptions,
    Reporter,
    ResolvedSpec,
    SecretReference,
    Task,
    TextOptions,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.resolve import resolve
from services.hardware.estimate.sources.reading import Places
from tests.hardware.estimate.models import TINY_LLAMA, TINY_VIT, write_model
from tests.hardware.samples import DATASET, placed, training_spec

TEXT = DatasetSummary(
    name="projects/default/datasets/chat",
    digest=f"sha256:{'1' * 64}",
    size_bytes=1000,
    format=DatasetFormat.JSONL,
    example_count=100,
)
NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
INT8 = QuantizationOptions(method=QuantizationMethod.INT8)


def vit(**fields: Any) -> TrainingSpec:
    return training_spec(**{"model": ModelSource(config=TINY_VIT), **fields})


def sft(**fields: Any) -> TrainingSpec:
    model = ModelSource(config=TINY_LLAMA)
    return training_spec(**{"task": Task.SFT, "model": model, "dataset": TEXT.name, **fields})


def dpo(**fields: Any) -> TrainingSpec:
    return sft(task=Task.DPO, **fields)


def resolved(places: Places, spec: TrainingSpec, dataset: DatasetSummary | None = None) -> ResolvedSpec:
    return resolve(spec, dataset or data_of(spec), None, "default", places)[0]


def data_of(spec: TrainingSpec) -> DatasetSummary:
    return DATASET if spec.task is Task.IMAGE_CLASSIFICATION else TEXT


def refusal(places: Places, spec: TrainingSpec, dataset: DatasetSummary | None = None) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        resolved(places, spec, dataset)
    return caught.value


def test_nothing_that_has_a_default_is_left_open(places: Places) -> None:
    spec = resolved(places, vit()).spec
    assert spec.training == TrainingOptions(
        num_train_epochs=3.0,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        learning_rate=5e-5,
        lr_scheduler_type=spec.training and spec.training.lr_scheduler_type,
        warmup_steps=0.0,
        optim=spec.training and spec.training.optim,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        torch_compile=False,
        logging_steps=10,
        dataloader_num_workers=0,
        label_smoothing_factor=0.0,
        use_liger_kernel=False,
    )
    assert spec.training is not None
    assert (spec.training.lr_scheduler_type, spec.training.optim) == ("linear", "adamw_torch_fused")
    assert spec.evaluation is not None
    assert (spec.evaluation.validation_split, spec.evaluation.metric_for_best_model) == (0.1, "accuracy")
    assert spec.evaluation.eval_strategy is IntervalStrategy.EPOCH
    assert spec.checkpointing == CheckpointOptions(save_strategy=IntervalStrategy.EPOCH, save_total_limit=2)
    assert spec.placement is not None
    assert (spec.placement.device, spec.placement.device_count) == (DeviceKind.AUTO, 1)
    assert spec.scheduling is not None
    assert (spec.scheduling.priority, spec.scheduling.retry_limit) == (0, 3)
    assert (spec.report_to, spec.seed) == ((Reporter.TENSORBOARD,), 42)
    assert spec.image == ImageOptions(
        image_size=32,
        augmentations=(Augmentation.RANDOM_RESIZED_CROP, Augmentation.RANDOM_HORIZONTAL_FLIP),
        labels=tuple("0123456789"),
    )
    assert (spec.text, spec.preference) == (None, None)


def test_what_was_given_stays_also_where_it_is_zero(places: Places) -> None:
    spec = resolved(
        places,
        vit(
            seed=0,
            training=TrainingOptions(max_steps=5, weight_decay=0.1, max_grad_norm=0.0),
            evaluation=EvaluationOptions(validation_split=0.0),
            image=ImageOptions(no_augmentations=True),
        ),
    ).spec
    assert spec.seed == 0
    assert spec.training is not None
    assert (spec.training.max_steps, spec.training.num_train_epochs) == (5, None)
    assert (spec.training.weight_decay, spec.training.max_grad_norm) == (0.1, 0.0)
    assert spec.evaluation is not None
    assert spec.evaluation.eval_strategy is IntervalStrategy.NO
    assert spec.image is not None
    assert spec.image.augmentations == ()


def test_text_tasks_have_defaults_of_their_own(places: Places) -> None:
    spec = resolved(places, dpo()).spec
    assert spec.training is not None
    assert (spec.training.learning_rate, spec.training.gradient_checkpointing) == (1e-6, True)
    assert spec.text is not None
    assert (spec.text.max_length, spec.text.dataset_text_field) == (1024, "text")
    assert spec.preference is not None
    assert (spec.preference.beta, spec.preference.loss_type) == (0.1, ("sigmoid",))
    assert spec.evaluation is not None
    assert spec.evaluation.metric_for_best_model == "loss"


def test_an_adapter_gets_its_defaults_and_the_head_is_trained_whole(places: Places) -> None:
    spec = resolved(places, vit(lora=LoraOptions(r=4))).spec
    assert spec.lora is not None
    assert (spec.lora.r, spec.lora.lora_alpha, spec.lora.target_modules) == (4, 8.0, ("all-linear",))
    assert spec.lora.modules_to_save == ("classifier",)
    assert spec.training is not None
    assert spec.training.learning_rate == 2e-4


def test_what_depends_on_the_device_stays_open_until_the_spec_names_it(places: Places) -> None:
    free = resolved(places, vit()).spec
    assert (free.attn_implementation, free.precision) == (Attention.AUTO, Precision.AUTO)
    cpu = resolved(places, vit(placement=placed(DeviceKind.CPU))).spec
    assert (cpu.attn_implementation, cpu.precision) == (Attention.SDPA, Precision.FP32)
    convnext = ModelSource(config={"model_type": "convnext", "depths": [1, 1, 1, 1]})
    spec = resolved(places, vit(model=convnext, placement=placed(DeviceKind.CPU))).spec
    assert spec.attn_implementation is Attention.EAGER


def test_the_model_learns_the_labels_of_the_data(places: Places) -> None:
    model = resolved(places, vit()).model
    config = json.loads(model.config_json)
    assert config["id2label"] == {str(index): str(index) for index in range(10)}
    assert config["label2id"]["9"] == 9
    assert (model.model_type, config["image_size"], config["num_channels"]) == ("vit", 32, 3)
    assert config["architectures"] == ["ViTForImageClassification"]
    assert model.parameter_count > 20_000


def test_picked_labels_are_the_only_ones(places: Places) -> None:
    found = resolved(places, vit(image=ImageOptions(labels=("7", "3"))))
    assert found.spec.image is not None
    assert found.spec.image.labels == ("3", "7")
    assert json.loads(found.model.config_json)["id2label"] == {"0": "3", "1": "7"}


def test_an_image_size_is_given_to_a_model_from_scratch(places: Places) -> None:
    config = {key: value for key, value in TINY_VIT.items() if key != "image_size"}
    found = resolved(places, vit(model=ModelSource(config=config), image=ImageOptions(image_size=24)))
    assert json.loads(found.model.config_json)["image_size"] == 24


def test_a_model_with_other_labels_gets_a_new_head_and_says_so(places: Places) -> None:
    labels = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}}
    write_model(places.model_root / "pets", {**TINY_VIT, **labels})
    spec = vit(model=ModelSource(path="pets"))
    found, warnings = resolve(spec, DATASET, None, "default", places)
    assert "knows cat, dog; this job learns 0, 1, 2, 3, 4, … (10)" in warnings[0]
    assert [file.path for file in found.model.weight_files] == ["model.safetensors"]
    same = replace(DATASET, labels=tuple(LabelCount(label=name, count=50) for name in ("dog", "cat")))
    assert resolve(spec, same, None, "default", places)[1] == []


def test_the_same_spec_gives_the_same_bytes(places: Places) -> None:
    first, second = (serialize_resolved(resolved(places, vit(labels={"b": "1", "a": "2"}))) for _ in range(2))
    assert first == second
    assert serialize_resolved(parse_resolved(first)) == first


def test_a_resolved_spec_resolves_to_itself(places: Places) -> None:
    once = resolved(places, vit(lora=LoraOptions()))
    again = resolved(places, replace(once.spec))
    assert again == once


def test_a_check_without_data_assumes_usual_sizes_and_says_so(places: Places) -> None:
    found, warnings = resolve(vit(), None, None, "default", places)
    assert "usual sizes were assumed" in warnings[0]
    assert (found.dataset.digest, found.dataset.example_count) == ("", 10_000)
    assert parse_resolved(serialize_resolved(found)) == found


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "vitt"}, "did you mean vit"),
        ({"model_type": "llama"}, "no image classifier: choose an architecture such as vit"),
        ({**TINY_VIT, "hidden_size": "many"}, "expected int, got str"),
        ({**TINY_VIT, "hidden_size": 0}, "cannot be built"),
        ({"model_type": "timm_wrapper"}, "model"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(
    places: Places, config: dict[str, Any], reason: str
) -> None:
    error = refusal(places, vit(model=ModelSource(config=config)))
    assert isinstance(error, InvalidModel)
    assert reason in str(error)


def one_label(count: int) -> DatasetSummary:
    few = (LabelCount(label="3", count=count), LabelCount(label="7", count=100))
    return replace(DATASET, labels=few, example_count=100 + count)


EVERY_STEP = EvaluationOptions(
    eval_strategy=IntervalStrategy.STEPS, eval_steps=10, load_best_model_at_end=True
)
TARGETS = ("experts.down_proj",)


@pytest.mark.parametrize(
    ("spec", "field", "remedy"),
    [
        (
            vit(model=ModelSource(config={**TINY_VIT, "hiden_size": 8})),
            "model.config.hiden_size",
            "hidden_size",
        ),
        (vit(model=ModelSource(config={**TINY_VIT, "num_channels": 1})), "model.config.num_channels", "3"),
        (vit(image=ImageOptions(image_size=64)), "image.image_size", "give one of the two"),
        (
            vit(model=ModelSource(config={"model_type": "vit"}), image=ImageOptions(image_size=30)),
            "image.image_size",
            "use 16 or 32",
        ),
        (
            vit(
                model=ModelSource(config={"model_type": "convnext", "depths": [1, 1, 1, 1]}),
                image=ImageOptions(image_size=8),
            ),
            "image.image_size",
            "does not take images",
        ),
        (vit(image=ImageOptions(labels=("3", "sevn"))), "image.labels", "no such label"),
        (vit(image=ImageOptions(labels=("3",))), "image.labels", "at least 2 labels"),
        (vit(text=TextOptions()), "text", "use image"),
        (vit(preference=PreferenceOptions()), "preference", "dpo"),
        (sft(image=ImageOptions()), "image", "use text"),
        (vit(dataset=DATASET.name, task=Task.SFT), "dataset", "image_folder_zip"),
        (vit(quantization=NF4, lora=LoraOptions()), "quantization", "leave it out"),
        (sft(quantization=NF4), "quantization", "add lora"),
        (sft(quantization=INT8, lora=LoraOptions(use_dora=True)), "lora.use_dora", "use nf4"),
        (
            sft(lora=LoraOptions(), quantization=replace(INT8, bnb_4bit_use_double_quant=True)),
            "quantization.bnb_4bit_use_double_quant",
            "nf4",
        ),
        (vit(lora=LoraOptions(target_modules=("query",))), "lora.target_modules", "q_proj"),
        (vit(lora=LoraOptions(target_modules=("q_prj",))), "lora.target_modules", "did you mean q_proj"),
        (vit(lora=LoraOptions(modules_to_save=("head",))), "lora.modules_to_save", "classifier"),
        (sft(lora=LoraOptions(target_modules=("lm_head",))), "lora.target_modules", "modules_to_save"),
        (sft(lora=LoraOptions(target_parameters=TARGETS)), "lora.target_parameters", "no such part"),
        (
            sft(lora=LoraOptions(target_parameters=TARGETS, lora_dropout=0.1)),
            "lora.lora_dropout",
            "set it to 0",
        ),
        (sft(lora=LoraOptions(target_parameters=TARGETS, use_dora=True)), "lora.use_dora", "plain LoRA"),
        (vit(precision=Precision.FP16, placement=placed(DeviceKind.CPU)), "precision", "fp32 or bf16"),
        (
            vit(precision=Precision.FP32, attn_implementation=Attention.FLASH_ATTENTION_2),
            "precision",
            "use auto",
        ),
        (vit(placement=placed(DeviceKind.CPU, device_count=2)), "placement.device_count", "set it to 1"),
        (
            vit(model=ModelSource(config={"model_type": "convnext"}), attn_implementation=Attention.SDPA),
            "attn_implementation",
            "use eager",
        ),
        (
            vit(
                model=ModelSource(config={"model_type": "convnext"}),
                training=TrainingOptions(gradient_checkpointing=True),
            ),
            "training.gradient_checkpointing",
            "lower the batch size",
        ),
        (vit(placement=PlacementOptions(activation_offload=True)), "placement.activation_offload", "images"),
        (
            vit(training=TrainingOptions(use_liger_kernel=True)),
            "training.use_liger_kernel",
            "language models",
        ),
        (sft(text=TextOptions(router_aux_loss_coef=0.1)), "text.router_aux_loss_coef", "no mixture"),
        (sft(text=TextOptions(max_length=4096)), "text.max_length", "2048 positions"),
        (
            sft(
                model=ModelSource(config={"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 32}),
                text=TextOptions(packing=True),
            ),
            "text.packing",
            "see each other",
        ),
        (
            vit(training=TrainingOptions(per_device_train_batch_size=4000)),
            "training.per_device_train_batch_size",
            "only 1616 example(s)",
        ),
        (
            vit(training=TrainingOptions(max_steps=5, warmup_steps=10)),
            "training.warmup_steps",
            "5 step(s) in all",
        ),
        (
            vit(evaluation=EvaluationOptions(metric_for_best_model="acuracy")),
            "evaluation.metric_for_best_model",
            "did you mean accuracy",
        ),
        (
            vit(evaluation=EvaluationOptions(validation_split=0.0, load_best_model_at_end=True)),
            "evaluation.load_best_model_at_end",
            "nothing is ever evaluated",
        ),
        (
            vit(evaluation=EvaluationOptions(eval_strategy=IntervalStrategy.NO, early_stopping_patience=2)),
            "evaluation.early_stopping_patience",
            "nothing is ever evaluated",
        ),
        (
            vit(evaluation=EvaluationOptions(validation_split=0.0, eval_strategy=IntervalStrategy.EPOCH)),
            "evaluation.eval_strategy",
            "nothing is held out",
        ),
        (vit(evaluation=EVERY_STEP), "checkpointing.save_strategy", "steps"),
        (
            vit(
                evaluation=EVERY_STEP,
                checkpointing=CheckpointOptions(save_strategy=IntervalStrategy.STEPS, save_steps=15),
            ),
            "checkpointing.save_steps",
            "a multiple of eval_steps, 10",
        ),
        (
            dpo(preference=PreferenceOptions(loss_type=("sigmoid", "sft"), loss_weights=(1.0,))),
            "preference.loss_weights",
            "2 loss types",
        ),
        (
            dpo(preference=PreferenceOptions(loss_type=("exo_pair",))),
            "preference.label_smoothing",
            "above 0",
        ),
        (
            dpo(training=TrainingOptions(label_smoothing_factor=0.1)),
            "training.label_smoothing_factor",
            "preference.label_smoothing",
        ),
        (vit(report_to=(Reporter.NONE, Reporter.TENSORBOARD)), "report_to", "nothing else"),
        (
            vit(secrets=(SecretReference(env="A", secret="x"), SecretReference(env="A", secret="y"))),
            "secrets",
            "name it once",
        ),
    ],
)
def test_a_contradiction_names_field_limit_and_what_works(
    places: Places, spec: TrainingSpec, field: str, remedy: str
) -> None:
    error = refusal(places, spec, DATASET if spec.dataset == DATASET.name else None)
    assert isinstance(error, InvalidSpec)
    assert error.field == field
    assert remedy in str(error.limit)


def test_a_split_that_leaves_a_label_on_one_side_is_refused(places: Places) -> None:
    error = refusal(places, vit(), one_label(1))
    assert "label '3' has 1 image(s), too few for both sides" in str(error)
    assert resolved(places, vit(), one_label(2))
    assert resolved(places, vit(evaluation=EvaluationOptions(validation_split=0.0)), one_label(1))


def test_a_single_row_cannot_be_split(places: Places) -> None:
    error = refusal(places, sft(), replace(TEXT, example_count=1))
    assert "too few for both sides" in str(error)


def test_preferences_need_a_decoder(places: Places) -> None:
    error = refusal(places, dpo(model=ModelSource(config={"model_type": "t5"})))
    assert "use sft" in str(error)


def test_weights_made_for_one_image_size_keep_it(places: Places) -> None:
    write_model(places.model_root / "vit")
    spec = vit(model=ModelSource(path="vit"), image=ImageOptions(image_size=64))
    assert "were made for 32" in str(refusal(places, spec))
