"""Spec files: what they say, what comes back, and how each mistake is told."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from weighbridge import spec_file
from weighbridge.common.v1 import training_spec_pb2 as pb
from weighbridge.exceptions import Problem, SpecError

BASE = """\
task: image_classification
model: {hub: google/vit-base-patch16-224}
dataset: digits
"""


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(SpecError) as caught:
        spec_file.loads(text)
    return caught.value.problems


def problem(text: str) -> Problem:
    (found,) = problems(text)
    return found


def test_a_short_file_becomes_a_spec() -> None:
    spec = spec_file.loads(
        BASE
        + """\
training:
  num_train_epochs: 5
  learning_rate: 1e-3
  lr_scheduler_type: cosine
  gradient_checkpointing: true
checkpointing: {save_strategy: no}
lora: {target_modules: all-linear}
scheduling: {max_duration: 2h30m, priority: -3}
placement: {node: laptop}
labels: {team: vision, run: 007}
report_to: tensorboard
seed: 7
""",
        project="research",
    )
    assert spec == pb.TrainingSpec(
        task=pb.TASK_IMAGE_CLASSIFICATION,
        model=pb.ModelSource(hub="google/vit-base-patch16-224"),
        dataset="projects/research/datasets/digits",
        training=pb.TrainingOptions(
            num_train_epochs=5,
            learning_rate=1e-3,
            lr_scheduler_type=pb.SCHEDULER_TYPE_COSINE,
            gradient_checkpointing=True,
        ),
        checkpointing=pb.CheckpointOptions(save_strategy=pb.INTERVAL_STRATEGY_NO),
        lora=pb.LoraOptions(target_modules=["all-linear"]),
        scheduling=pb.SchedulingOptions(max_duration=Duration(seconds=9000), priority=-3),
        placement=pb.PlacementOptions(node="nodes/laptop"),
        labels={"team": "vision", "run": "007"},
        report_to=[pb.REPORTER_TENSORBOARD],
        seed=7,
    )


def test_names_of_labels_stay_as_they_are_written() -> None:
    spec = spec_file.loads(BASE + "image: {labels: [0, 010, no, 1e3, 2020-01-01]}")
    assert list(spec.image.labels) == ["0", "010", "no", "1e3", "2020-01-01"]


def test_short_names_are_completed_and_full_ones_kept() -> None:
    spec = spec_file.loads("model: {job: t123}\ndataset: projects/other/datasets/digits", project="research")
    assert spec.model.job == "projects/research/trainingJobs/t123"
    assert spec.dataset == "projects/other/datasets/digits"


def test_an_inline_architecture_keeps_its_numbers_and_its_quoted_text() -> None:
    spec = spec_file.loads(
        'model: {config: {model_type: vit, eps: 1e-6, depth: 4, name: "1e-6", on: [1, x]}}'
    )
    assert dict(spec.model.config) == {
        "model_type": "vit",
        "eps": 1e-6,
        "depth": 4,
        "name": "1e-6",
        "on": spec.model.config["on"],
    }


def test_a_mapping_says_the_same_as_a_file() -> None:
    plain = {
        "task": "image_classification",
        "model": {"hub": "google/vit-base-patch16-224"},
        "dataset": "digits",
        "training": {"learning_rate": 1e-3, "max_steps": 10, "gradient_checkpointing": False},
        "image": {"labels": ["0", "1"]},
    }
    text = BASE + (
        "training: {learning_rate: 1e-3, max_steps: 10, gradient_checkpointing: false}\n"
        "image: {labels: [0, 1]}"
    )
    assert spec_file.parse(plain) == spec_file.loads(text)


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("learning_rate: 1e-3", "learning_rate", "did you mean training.learning_rate?"),
        ("trainig: {}", "trainig", "did you mean training?"),
        ("training: {batch_size: 3}", "training.batch_size", "training.per_device_train_batch_size"),
        (
            "training: {numTrainEpochs: 3}",
            "training.numTrainEpochs",
            "did you mean training.num_train_epochs?",
        ),
        ("lora: {lora-alpha: 3}", "lora.lora-alpha", "did you mean lora.lora_alpha?"),
        ("evaluation: {save_steps: 3}", "evaluation.save_steps", "did you mean checkpointing.save_steps?"),
        ("lora: {task: sft}", "lora.task", "did you mean task?"),
        ("lora: {zzz: 1}", "lora.zzz", "known here are lora_alpha, lora_dropout"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(line: str, field: str, message: str) -> None:
    found = problem(BASE + line)
    assert (found.line, found.field) == (4, field)
    assert found.message.startswith("unknown key: ")
    assert message in found.message


@pytest.mark.parametrize(
    ("line", "field", "message"),
    [
        ("seed: eight", "seed", "expected a whole number from 0 to 4294967295, found 'eight'"),
        ("seed: -1", "seed", "expected a whole number from 0"),
        ("seed: 1.5", "seed", "expected a whole number"),
        ("seed: [1]", "seed", "expected one value, found a list"),
        ("training: {learning_rate: fast}", "training.learning_rate", "expected a number, found 'fast'"),
        ("training: {learning_rate: .inf}", "training.learning_rate", "expected a"),
        (
            "training: {torch_compile: maybe}",
            "training.torch_compile",
            "expected true or false, found 'maybe'",
        ),
        ("training: fast", "training", "expected keys below it, found 'fast'"),
        ("training: [1]", "training", "expected keys below it, found a list"),
        ("precision: bf17", "precision", "'bf17' is none of auto, fp32, bf16, fp16: did you mean bf16?"),
        ("report_to: [tensorboard, moon]", "report_to[1]", "'moon' is none of none, tensorboard"),
        ("artifact_ttl: 3600", "artifact_ttl", "expected a duration such as 2h30m or 90s, found '3600'"),
        ("artifact_ttl: 1h1h", "artifact_ttl", "expected a duration"),
        ("artifact_ttl: {seconds: 3}", "artifact_ttl", "expected a duration such as 2h30m, found keys"),
        ("labels: vision", "labels", "expected keys and values, found 'vision'"),
        ("labels: {team: [a]}", "labels.team", "expected one value, found a list"),
        ("lora:", "lora", "is empty: write `lora: {}` for its defaults"),
        ("seed:", "seed", "is empty: give a value"),
        ("secrets: [{env: HF_TOKEN, secrt: hub}]", "secrets[0].secrt", "did you mean secrets[0].secret?"),
        ("image: {labels: [a, null]}", "image.labels[1]", "expected one value, found nothing"),
    ],
)
def test_a_wrong_value_names_field_line_and_what_was_expected(line: str, field: str, message: str) -> None:
    found = problem(BASE + line)
    assert (found.line, found.field) == (4, field)
    assert message in found.message


def test_two_sources_of_a_model_contradict_each_other() -> None:
    found = problem("task: sft\nmodel:\n  hub: a/b\n  path: c\n")
    assert (found.line, found.field) == (4, "model.path")
    assert "contradicts model.hub: give one of config, gguf, hub, job, path" in found.message


def test_a_key_given_twice_is_refused() -> None:
    found = problem(BASE + "training:\n  max_steps: 3\n  max_steps: 4\n")
    assert found == Problem(6, "training.max_steps", "is given twice, first in line 5")


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    found = problems("task: sftt\nmodel: {hubb: x}\nsee: 1\nseed: x\n")
    assert [(each.line, each.field) for each in found] == [
        (1, "task"),
        (2, "model.hubb"),
        (3, "see"),
        (4, "seed"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected keys such as"),
        ("- a\n- b\n", "expected keys such as"),
        ("task: [a\nb: c", "no YAML"),
        ("a: &x 1\nb: *x", "aliases"),
        ("task: sft\n---\ntask: sft\n", "no YAML"),
        ("? [a, b]\n: 1\n", "a key is one word"),
        ("[" * 5000, "nested too deeply"),
        ("a: \x00", "no YAML"),
    ],
)
def test_what_is_no_spec_is_refused(text: str, message: str) -> None:
    assert any(message in found.message for found in problems(text))


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"a: 1\n" * 300_000], ids=["no text", "too large"])
def test_a_file_that_is_no_spec_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=f"{path}: is "):
        spec_file.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"missing\.yaml: No such file"):
        spec_file.load(tmp_path / "missing.yaml")


def test_an_infinite_number_in_a_config_is_refused() -> None:
    assert "not finite" in problem("model: {config: {eps: .inf}}").message


def test_a_spec_is_written_with_short_names() -> None:
    spec = spec_file.loads(BASE + "scheduling: {max_duration: 90m}\nplacement: {device: cpu}", "research")
    assert spec_file.dump(spec, "research") == (
        "task: image_classification\n"
        "model:\n"
        "  hub: google/vit-base-patch16-224\n"
        "dataset: digits\n"
        "placement:\n"
        "  device: cpu\n"
        "scheduling:\n"
        "  max_duration: 1h30m\n"
    )


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    # A negative zero, which nobody writes, comes back as zero.
    | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
    | text,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(text, below, max_size=3),
    max_leaves=8,
)


@st.composite
def specs(draw: st.DrawFn) -> pb.TrainingSpec:
    spec = pb.TrainingSpec(
        task=draw(st.sampled_from([pb.TASK_IMAGE_CLASSIFICATION, pb.TASK_SFT, pb.TASK_DPO])),
        dataset=draw(st.sampled_from(["", "projects/p/datasets/d", "projects/other/datasets/d"])),
        image=pb.ImageOptions(labels=draw(st.lists(text, max_size=3)), no_augmentations=draw(st.booleans())),
        preference=pb.PreferenceOptions(loss_weights=draw(st.lists(st.floats(0, 1e9), max_size=2))),
        lora=pb.LoraOptions(lora_alpha=draw(st.floats(1e-12, 1e12)), use_dora=draw(st.booleans())),
        labels=draw(st.dictionaries(text, text, max_size=3)),
        seed=draw(st.integers(0, 2**32 - 1)),
        report_to=draw(st.lists(st.sampled_from([pb.REPORTER_NONE, pb.REPORTER_TENSORBOARD]), max_size=2)),
    )
    source = draw(st.sampled_from(["config", "job", "hub"]))
    if source == "config":
        spec.model.config.update(draw(st.dictionaries(text, json_values, max_size=3)))
        spec.model.config.SetInParent()
    else:
        names = st.sampled_from(["projects/p/trainingJobs/t1", "projects/other/trainingJobs/t1"])
        setattr(spec.model, source, draw(names if source == "job" else text))
    if draw(st.booleans()):
        spec.artifact_ttl.FromNanoseconds(draw(st.integers(0, 10**19)))
    spec.scheduling.priority = draw(st.integers(-1000, 1000))
    return spec


@given(spec=specs())
def test_what_is_written_reads_back_the_same(spec: pb.TrainingSpec) -> None:
    assert spec_file.loads(spec_file.dump(spec, "p"), "p") == spec
