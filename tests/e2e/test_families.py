"""Every kind of training that there is, on a tiny model, through the gateway: the loss falls."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.platform import Platform
from tests.trainer.text_specs import TINY
from weighbridge.jobs import Job

COLOURS = ("red", "green", "blue", "white")
LORA = {"r": 8, "lora_dropout": 0.0}


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def rows(colour: str) -> dict[str, dict[str, Any]]:
    asked, answer, other = f"say {colour}", f"{colour} {colour}", "no no no"
    return {
        "texts": {"text": f"{asked}: {answer}"},
        "talks": {"messages": [said("user", asked), said("assistant", answer)]},
        "completions": {"prompt": f"{asked}: ", "completion": answer},
        "preferences": {"prompt": asked, "chosen": f" {answer}", "rejected": f" {other}"},
    }


def spec(
    architecture: str, dataset: str, *, text: Mapping[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    training = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        **changes.pop("training", {}),
    }
    return {
        "task": "dpo" if dataset == "preferences" else "sft",
        "model": {"config": {"model_type": architecture, **TINY[architecture]}},
        "dataset": dataset,
        "text": {"max_length": 96, **(text or {})},
        "training": training,
        "evaluation": {"validation_split": 0.1},
        "placement": {"device": "cpu", **changes.pop("placement", {})},
        **changes,
    }


NF4, INT8 = {"method": "nf4"}, {"method": "int8"}
ATTENTION = {**LORA, "target_modules": ["q_proj", "v_proj"]}
FAMILIES = {
    "sft of conversations, the assistant's turns": spec("llama", "talks", text={"assistant_only_loss": True}),
    "sft, packed and with noise, of a rank-stabilised adapter": spec(
        "llama",
        "texts",
        text={"packing": True, "neftune_noise_alpha": 5.0},
        lora={**LORA, "use_rslora": True},
    ),
    "sft of completions, with DoRA": spec("qwen2", "completions", lora={**LORA, "use_dora": True}),
    "QLoRA": spec("llama", "talks", lora=LORA, quantization=NF4),
    "QDoRA": spec("llama", "talks", lora={**LORA, "use_dora": True}, quantization=NF4),
    "LoRA on int8": spec("llama", "talks", lora=LORA, quantization=INT8),
    "dpo with an adapter": spec("llama", "preferences", lora=LORA, training={"learning_rate": 1e-2}),
    "dpo of every weight, another loss": spec(
        "llama",
        "preferences",
        preference={"loss_type": ["ipo"]},
        training={"optim": "adamw_8bit", "learning_rate": 1e-3},
    ),
    "Mamba": spec(
        "mamba",
        "texts",
        lora={**LORA, "target_modules": ["in_proj", "x_proj"]},
        training={"learning_rate": 1e-2, "max_steps": 24},
    ),
    "Mamba-2": spec("mamba2", "texts"),
    "Mixtral, its experts in 4 bit": spec("mixtral", "talks", lora=ATTENTION, quantization=NF4),
    "Qwen-MoE, an adapter on its experts": spec(
        "qwen2_moe",
        "talks",
        lora={**LORA, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    ),
    "OLMoE, with the loss of its router": spec("olmoe", "texts", text={"router_aux_loss_coef": 0.01}),
    "Switch, as encoder and decoder": spec("switch_transformers", "completions"),
}


@pytest.fixture(scope="module")
def jobs(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    """Return every family's job, queued at once: the node runs as many as fit its memory."""
    folder = tmp_path_factory.mktemp("text")
    for dataset in rows(""):
        lines = [json.dumps(rows(f"{COLOURS[n % 4]} {n:02}")[dataset]) for n in range(40)]
        path = folder / f"{dataset}.jsonl"
        path.write_text("\n".join(lines) + "\n")
        platform.client.datasets.upload(path, dataset)
    return {name: platform.client.train(spec) for name, spec in FAMILIES.items()}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains(platform: Platform, jobs: dict[str, Job], name: str) -> None:
    job = jobs[name].wait()
    told = (platform.run_dir(job) / "events.jsonl").read_text().splitlines()
    losses = [event["loss"] for event in map(json.loads, told) if event["type"] == "progress"]
    assert len(losses) == FAMILIES[name]["training"]["max_steps"]
    # Batches differ: what is compared is a quarter with a quarter.
    quarter = len(losses) // 4
    assert sum(losses[-quarter:]) < sum(losses[:quarter])
    assert "loss" in job.metrics
