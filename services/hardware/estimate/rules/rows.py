"""What a spec asks of its data's rows."""

from collections.abc import Iterator

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from services.common.errors import InvalidSpec
from services.common.specs import DatasetSummary, RowShape, Task, TextOptions, TrainingSpec

_NAMES = {
    RowShape.TEXT: "plain text",
    RowShape.MESSAGES: "conversations (messages)",
    RowShape.PROMPT_COMPLETION: "prompt and completion",
    RowShape.PREFERENCE: "preferences (prompt, chosen and rejected)",
}


def is_conversational(dataset: DatasetSummary) -> bool:
    """Whether rows are lists of roles and contents, which a chat template turns into text."""
    told = dataset.text is not None and dataset.text.conversational
    return dataset.row_shape is RowShape.MESSAGES or told


def text_column(dataset: DatasetSummary) -> str:
    """Return the column that plain text was found in when the data was uploaded. Empty: not known."""
    return "" if dataset.text is None else dataset.text.text_column


def shape(spec: TrainingSpec, dataset: DatasetSummary) -> Iterator[InvalidSpec]:
    """A task learns from rows of its own kind."""
    found = dataset.row_shape
    # Absent where the data set is none that was uploaded, or one of before rows were looked at.
    if found is None or spec.task is Task.IMAGE_CLASSIFICATION:
        return
    if spec.task is Task.DPO and found is not RowShape.PREFERENCE:
        limit = f"its rows are {_NAMES[found]}, and dpo compares prompt, chosen and rejected: use sft"
        yield InvalidSpec("dataset", dataset.name, limit)
    if spec.task is Task.SFT and found is RowShape.PREFERENCE:
        limit = "its rows are preferences, and sft learns text, messages, or prompt and completion: use dpo"
        yield InvalidSpec("dataset", dataset.name, limit)


def loss(spec: TrainingSpec, dataset: DatasetSummary) -> Iterator[InvalidSpec]:
    """A part of a row can only be masked where rows have that part."""
    text, found = spec.text or TextOptions(), dataset.row_shape
    if found is None or spec.task is not Task.SFT:
        return
    if text.completion_only_loss and found is not RowShape.PROMPT_COMPLETION:
        # trl trains on everything then, without a word.
        instead = (
            "set assistant_only_loss instead"
            if found is RowShape.MESSAGES
            else "leave it out, or give it prompt and completion"
        )
        limit = f"its rows are {_NAMES[found]}, with no completion: {instead}"
        yield InvalidSpec("text.completion_only_loss", True, limit)
    if text.assistant_only_loss and not is_conversational(dataset):
        instead = (
            "set completion_only_loss instead"
            if found is RowShape.PROMPT_COMPLETION
            else "leave it out, or give it messages"
        )
        limit = f"its rows are {_NAMES[found]}, with no assistant's turns: {instead}"
        yield InvalidSpec("text.assistant_only_loss", True, limit)
    named, read = text.dataset_text_field, text_column(dataset)
    if named and named != (read or "text"):
        what = f"its text is in {read}" if read else f"its rows are {_NAMES[found]}, not text in a column"
        yield InvalidSpec("text.dataset_text_field", named, f"{what}: leave it out")


def encoder(spec: TrainingSpec, dataset: DatasetSummary) -> Iterator[InvalidSpec]:
    """A model with an encoder reads one text and writes another."""
    found = dataset.row_shape
    if found is not None and found is not RowShape.PROMPT_COMPLETION:
        limit = f"its rows are {_NAMES[found]}, and this model has an encoder: give it prompt and completion"
        yield InvalidSpec("dataset", dataset.name, limit)


def template(spec: TrainingSpec, dataset: DatasetSummary, own_template: str) -> Iterator[InvalidSpec]:
    """Conversations need a template, the tokenizer's own or the spec's, that Jinja can read."""
    given = "" if spec.text is None else spec.text.chat_template
    # A model of random weights gets the platform's tokenizer, which has one.
    if is_conversational(dataset) and not (given or own_template or spec.model.config):
        limit = "the tokenizer has none and the rows are conversations: set it to chatml, or to a template"
        yield InvalidSpec("text.chat_template", "absent", limit)
    if given and given != "chatml":
        try:
            # With the tags that transformers adds, such as `generation`.
            _compile_jinja_template(given)
        except TemplateError as error:
            limit = f"it is no Jinja template ({error}): correct it, or set it to chatml"
            yield InvalidSpec("text.chat_template", f"{given[:40]!r}", limit)
