"""Language models trained by a worker, from rows to an artifact that transformers alone loads."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.specs import (
    DatasetFormat,
    EvaluationOptions,
    IntervalStrategy,
    LoraOptions,
    Task,
    TextOptions,
    TrainingSpec,
)
from services.trainer.runs.directory import RunDirectory
from tests.trainer.text_specs import lora_for
from tests.trainer.worker.rundirs import events, outcome, write_run
from tests.trainer.worker.text.rows import LEARNING, LENGTH, resolved_text, rows_of, spec_of, write_rows
from tests.trainer.worker.warm import Warm

pytestmark = pytest.mark.filterwarnings("ignore")

ALL_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LORA = lora_for("llama", r=16, lora_alpha=64.0, target_modules=ALL_TARGETS)
ASSISTANT = TextOptions(max_length=LENGTH, assistant_only_loss=True)
PACKED = TextOptions(max_length=LENGTH, packing=True)

RUNS: dict[str, tuple[str, TrainingSpec]] = {
    "text": ("text", spec_of()),
    "packed": ("text", spec_of(text=PACKED)),
    "messages": ("messages", spec_of(text=ASSISTANT)),
    "completions": ("prompt_completion", spec_of(lora=LORA)),
    "dpo": ("preference", spec_of(Task.DPO, training=replace(LEARNING, learning_rate=1e-3))),
    "dpo_lora": ("preference", spec_of(Task.DPO, lora=LORA)),
}


@pytest.fixture(scope="module")
def runs(workers: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Every run above, done."""
    root = tmp_path_factory.mktemp("runs")
    return {name: do(workers, root / name, *run) for name, run in RUNS.items()}


def do(workers: Warm, path: Path, shape: str, spec: TrainingSpec) -> RunDirectory:
    data = write_rows(path.with_suffix(".jsonl"), rows_of(shape))
    return workers.run(write_run(path, resolved_text(spec, data), data))


def losses(run: RunDirectory) -> list[float]:
    return [event["loss"] for event in events(run, "progress")]


def told(run: RunDirectory) -> str:
    return "\n".join(event["message"] for event in events(run, "notice"))


@pytest.mark.parametrize("name", RUNS)
def test_loss_falls_and_held_out_rows_agree(runs: dict[str, RunDirectory], name: str) -> None:
    run = runs[name]
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    first, last = losses(run)[0], losses(run)[-1]
    assert last < 0.95 * first
    evaluated = [event["metrics"]["loss"] for event in events(run, "evaluation")]
    assert evaluated[-1] < evaluated[0]
    assert outcome(run)["metrics"]["loss"] == evaluated[-1]


@pytest.mark.parametrize("name", RUNS)
def test_artifact_loads_in_plain_transformers_with_the_weights_that_were_trained(
    runs: dict[str, RunDirectory], name: str
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = runs[name]
    model: Any = AutoModelForCausalLM.from_pretrained(run.artifact)
    tokenizer = AutoTokenizer.from_pretrained(run.artifact)
    inputs = tokenizer("colour 1 of sea? red", return_tensors="pt")
    expected = trained_model(run)(**inputs).logits
    assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]
    assert model.config.use_cache


def trained_model(run: RunDirectory) -> Any:
    """Return the model of the last checkpoint, which is what was trained."""
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    checkpoint = list(run.local_checkpoints().values())[-1]
    if not (checkpoint / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(checkpoint)
    set_seed(7)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run.artifact))
    return PeftModel.from_pretrained(base, checkpoint).eval()


def test_what_the_assistant_says_is_the_last_thing_a_finished_model_writes(
    runs: dict[str, RunDirectory],
) -> None:
    settings = json.loads((runs["messages"].artifact / "generation_config.json").read_text())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(runs["messages"].artifact)
    assert tokenizer.convert_ids_to_tokens(settings["eos_token_id"]) == ["<|endoftext|>", "<|im_end|>"]
    assert settings["pad_token_id"] == tokenizer.pad_token_id
    assert "_from_model_config" not in settings


def test_rewards_tell_the_better_answer_of_pairs_that_were_held_out(runs: dict[str, RunDirectory]) -> None:
    for name in ("dpo", "dpo_lora"):
        metrics = outcome(runs[name])["metrics"]
        assert losses(runs[name])[0] == pytest.approx(0.6931, abs=1e-3)
        assert metrics["reward_accuracy"] > 0.9
        assert metrics["reward_margin"] > 0


def test_tokens_are_counted_before_the_training_and_in_the_artifact(runs: dict[str, RunDirectory]) -> None:
    run = runs["completions"]
    assert "24 rows, 817 tokens" in told(run)
    facts = json.loads((run.artifact / "dataset.json").read_text())
    assert facts["tokens"]["tokens_per_row"] == {"min": 23, "median": 34, "p95": 48, "max": 49}
    assert facts["used"] == {"train": 18, "held_out": 6}
    assert events(run, "progress")[-1]["tokens_per_second"] > 0


def test_packed_rows_are_fewer_and_no_token_of_theirs_is_lost(runs: dict[str, RunDirectory]) -> None:
    used = json.loads((runs["packed"].artifact / "dataset.json").read_text())["used"]
    assert used["packed"] < used["train"] == 18
    assert len(losses(runs["packed"])) < len(losses(runs["text"]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "messages",
            ["text-generation", 'pipeline("text-generation", ".")([{"role"', "perplexity", "copies"],
        ),
        ("completions", ['("…", max_new_tokens', "adapter/", "- lora", "held-out rows"]),
        ("dpo", ["ranks 100.0% of 6 held-out pairs right", "- dpo"]),
    ],
)
def test_card_says_what_it_is_and_how_it_is_used(
    runs: dict[str, RunDirectory], name: str, words: list[str]
) -> None:
    card = (runs[name].artifact / "README.md").read_text()
    assert [word for word in words if word not in card] == []
    assert "![How training went](training_curve.png)" in card
    assert (runs[name].artifact / "training_curve.png").stat().st_size > 1000


def test_log_holds_no_warnings_of_libraries(runs: dict[str, RunDirectory]) -> None:
    for run in runs.values():
        assert "Warning" not in run.log_file.read_text()


def test_no_file_of_tokens_is_left_behind(runs: dict[str, RunDirectory]) -> None:
    assert list((runs["text"].path / "tokens").iterdir()) == []


@pytest.mark.parametrize("name", ["packed", "dpo"])
def test_same_seed_gives_the_same_weights_and_another_seed_others(
    workers: Warm, runs: dict[str, RunDirectory], tmp_path: Path, name: str
) -> None:
    shape, spec = RUNS[name]
    again = do(workers, tmp_path / "again", shape, spec)
    other = do(workers, tmp_path / "other", shape, replace(spec, seed=8))
    assert losses(again) == losses(runs[name])
    assert weights(again) == weights(runs[name]) != weights(other)


def weights(run: RunDirectory) -> bytes:
    return (run.artifact / "model.safetensors").read_bytes()


def test_best_weights_are_those_of_the_lowest_loss_unless_another_figure_is_named(
    workers: Warm, tmp_path: Path
) -> None:
    evaluation = EvaluationOptions(
        validation_split=0.25,
        eval_strategy=IntervalStrategy.STEPS,
        eval_steps=2,
        load_best_model_at_end=True,
    )
    # So large a step at the end that the last weights are not the best.
    spec = spec_of(evaluation=evaluation, training=replace(LEARNING, learning_rate=0.2))
    run = do(workers, tmp_path / "run", "text", spec)
    evaluated = {event["step"]: event["metrics"]["loss"] for event in events(run, "evaluation")}
    metrics = json.loads((run.artifact / "metrics.json").read_text())
    assert metrics["kept_step"] == min(evaluated, key=lambda step: evaluated[step])
    assert metrics["loss"] == min(evaluated.values())

    wrong = replace(spec, evaluation=replace(evaluation, metric_for_best_model="accuracy"))
    failed = do(workers, tmp_path / "wrong", "text", wrong)
    assert "an evaluation gives loss, perplexity, token_accuracy" in outcome(failed)["failure"]["message"]


def test_weights_that_no_evaluation_saw_are_judged_at_the_end(workers: Warm, tmp_path: Path) -> None:
    never = EvaluationOptions(validation_split=0.25, eval_strategy=IntervalStrategy.NO)
    run = do(workers, tmp_path / "run", "text", spec_of(evaluation=never))
    assert [event["step"] for event in events(run, "evaluation")] == [20]
    assert outcome(run)["metrics"]["loss"] == events(run, "evaluation")[0]["metrics"]["loss"]


def test_rows_of_parquet_and_csv_train_like_those_of_json_lines(
    workers: Warm, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    import csv

    import pyarrow
    from pyarrow import parquet

    rows = rows_of("text")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(rows)
    for name, format in (("rows.parquet", DatasetFormat.PARQUET), ("rows.csv", DatasetFormat.CSV)):
        data = tmp_path / name
        job = resolved_text(RUNS["text"][1], data)
        job = replace(job, dataset=replace(job.dataset, format=format))
        assert losses(workers.run(write_run(tmp_path / format, job, data))) == losses(runs["text"])


def test_adapter_goes_on_from_the_artifact_of_another_job_with_its_tokenizer_and_template(
    workers: Warm, runs: dict[str, RunDirectory], tmp_path: Path
) -> None:
    from services.common.specs import ModelSource

    spec = spec_of(Task.DPO, model=ModelSource(job="projects/default/trainingJobs/first"), lora=LoraOptions())
    spec = replace(spec, lora=LORA)
    data = write_rows(tmp_path / "rows.jsonl", rows_of("preference"))
    job = resolved_text(spec, data)
    run = workers.run(write_run(tmp_path / "run", job, data, base_model=runs["messages"].artifact))
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    assert losses(run)[0] == pytest.approx(0.6931, abs=1e-3)
    assert losses(run)[-1] < 0.6
    template = "chat_template.jinja"
    assert (run.artifact / template).read_text() == (runs["messages"].artifact / template).read_text()
