"""Opening a text data set as a worker does, without training on it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from services.common.specs import ModelSource, TrainingSpec
from services.trainer.work.data import open_data
from services.trainer.work.events import EventWriter
from services.trainer.work.inputs import read_inputs
from services.trainer.work.text.data import TextData
from tests.trainer.worker.rundirs import events, write_run
from tests.trainer.worker.text.rows import LLAMA, resolved_text, spec_of, write_rows


class Opened:
    """The data of a run, and what was told of it."""

    def __init__(self, data: TextData, notices: Sequence[Mapping[str, Any]]) -> None:
        self.data = data
        self.told = "\n".join(notice["message"] for notice in notices)
        self.warned = "\n".join(notice["message"] for notice in notices if notice["level"] == "warning")

    @property
    def rows(self) -> list[Mapping[str, list[int]]]:
        """The training rows, in the order of the file."""
        return [self.data.train[index] for index in range(self.data.sizes["train"])]

    def learned(self, row: Mapping[str, list[int]]) -> str:
        """The text that a loss is taken of."""
        return self.text([label for label in row["labels"] if label >= 0])

    def text(self, tokens: list[int]) -> str:
        """The text of tokens."""
        return str(self.data.tokenizer.decode(tokens))


def opened(
    rows: Sequence[Mapping[str, Any]],
    spec: TrainingSpec | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: Mapping[str, Any] = LLAMA,
) -> Opened:
    """Open rows for a spec, which holds nothing out unless it is given; with a tokenizer of a model's own."""
    from dataclasses import replace

    spec = spec or spec_of(evaluation=None)
    folder = Path(tempfile.mkdtemp())
    data = write_rows(folder / "rows.jsonl", rows)
    model: dict[str, Any] = {}
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder / "models" / "own"))
        spec, model = replace(spec, model=ModelSource(path="own")), {"location": "own"}
    run = write_run(
        folder / "run", resolved_text(spec, data, config, **model), data, model_root=folder / "models"
    )
    inputs = read_inputs(run)
    values = {name: value for name, value in config.items() if name != "model_type"}
    architecture = AutoConfig.for_model(str(config["model_type"]), **values)
    found = open_data(inputs, architecture, run.path / "tokens", EventWriter(run.events_file))
    assert isinstance(found, TextData)
    return Opened(found, events(run, "notice"))
