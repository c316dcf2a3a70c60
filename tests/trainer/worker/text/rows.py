"""Small text data sets, and the resolved specs of runs on them."""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    ModelSource,
    Optimizer,
    Reporter,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TextOptions,
    TextStatistics,
    TrainingSpec,
)
from tests.trainer.specs import TRAINING
from tests.trainer.text_specs import TINY, text_spec

# Room for the tokenizer of bytes, which models of random weights get.
LLAMA = {**TINY["llama"], "model_type": "llama"}
LEARNING = replace(TRAINING, learning_rate=1e-2, num_train_epochs=4.0, optim=Optimizer.ADAMW_TORCH)
LENGTH = 96

_COLOURS = ("red", "green", "blue", "black", "white")
_THINGS = ("cup", "hat", "sea", "sky", "fox")


def _pairs(count: int) -> list[tuple[str, str]]:
    draw = random.Random(5)
    drawn = [(draw.choice(_THINGS), draw.choice(_COLOURS)) for _ in range(count)]
    return [
        (f"colour {number} of {thing}?", f"{colour} " * (1 + number % 5))
        for number, (thing, colour) in enumerate(drawn)
    ]


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SHAPES: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    "text": lambda asked, said: {"text": f"{asked} {said}"},
    "messages": lambda asked, said: {"messages": [_turn("user", asked), _turn("assistant", said)]},
    "prompt_completion": lambda asked, said: {"prompt": asked, "completion": f" {said}"},
    "preference": lambda asked, said: {
        "prompt": [_turn("user", asked)],
        "chosen": [_turn("assistant", said)],
        "rejected": [_turn("assistant", said[::-1])],
    },
}


def rows_of(shape: str, count: int = 24) -> list[dict[str, Any]]:
    """Return rows of a shape, of different lengths, in which there is something to learn."""
    return [SHAPES[shape](asked, said) for asked, said in _pairs(count)]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def spec_of(task: Task = Task.SFT, **changes: Any) -> TrainingSpec:
    """Return a spec that learns fast, on random weights."""
    defaults = {
        "model": ModelSource(config=LLAMA),
        "text": TextOptions(max_length=LENGTH),
        "training": LEARNING,
        "report_to": (Reporter.NONE,),
    }
    return text_spec(task, **{**defaults, **changes})


def resolved_text(
    spec: TrainingSpec, data: Path, config: Mapping[str, Any] = LLAMA, **model: Any
) -> ResolvedSpec:
    """Return a spec resolved for rows of JSON lines."""
    content = data.read_bytes()
    conversational = b'"role"' in content
    return ResolvedSpec(
        spec=spec,
        model=ResolvedModel(
            config_json=json.dumps(dict(config)), model_type=str(config["model_type"]), **model
        ),
        dataset=DatasetSummary(
            name=spec.dataset,
            digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
            size_bytes=len(content),
            format=DatasetFormat.JSONL,
            example_count=content.count(b"\n"),
            text=TextStatistics(
                min_characters=1,
                median_characters=1,
                p95_characters=1,
                max_characters=1,
                conversational=conversational,
            ),
        ),
        resolver_version="test",
    )
