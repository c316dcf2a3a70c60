"""Data sets as people read them."""

from collections.abc import Iterable, Iterator

from rich.table import Table

from weighbridge.cli import output, words
from weighbridge.common.v1.resolved_spec_pb2 import DatasetFormat, DatasetSummary, RowShape
from weighbridge.gateway.v1.resources_pb2 import Dataset
from weighbridge.names import short

_SHAPES = {
    RowShape.ROW_SHAPE_TEXT: "text",
    RowShape.ROW_SHAPE_MESSAGES: "messages",
    RowShape.ROW_SHAPE_PROMPT_COMPLETION: "prompt and completion",
    RowShape.ROW_SHAPE_PREFERENCE: "preferences",
}
_SHOWN_LABELS = 20


def dataset_table(found: Iterable[Dataset]) -> Table:
    """Return data sets, a row each."""
    made = output.table(
        *("NAME", "FORMAT", "EXAMPLES", "CONTENT", "SIZE", "CREATED"),
        right=("EXAMPLES", "SIZE"),
        prose=("FORMAT", "CONTENT"),
    )
    for dataset in found:
        made.add_row(
            short(dataset.name),
            _format_word(dataset.summary),
            f"{dataset.summary.example_count:,}",
            _content(dataset.summary),
            words.size(dataset.summary.size_bytes),
            words.ago(dataset.create_time),
        )
    return made


def show_dataset(dataset: Dataset) -> None:
    """Print what a data set holds, and what looks wrong with it."""
    summary = dataset.summary
    content = _content(summary)
    output.say(
        f"data set {short(dataset.name)}: {words.many(summary.example_count, 'example')}"
        f"{f' ({content})' if content else ''}, {words.size(summary.size_bytes)}, {_format_word(summary)}"
    )
    for line in _details(summary):
        output.say(line, "dim")
    for warning in dataset.warnings:
        output.say(f"warning: {warning}", "yellow")


def _content(summary: DatasetSummary) -> str:
    """Return `10 labels`, or `messages`."""
    if summary.labels:
        return words.many(len(summary.labels), "label")
    shape = _SHAPES.get(summary.row_shape, "")
    # Messages are conversations anyway, and text never is one.
    both = RowShape.ROW_SHAPE_PROMPT_COMPLETION, RowShape.ROW_SHAPE_PREFERENCE
    kinds = {True: ", conversations", False: ", plain text"}
    return shape + (kinds[summary.text.conversational] if summary.row_shape in both else "")


def _details(summary: DatasetSummary) -> Iterator[str]:
    if summary.labels:
        shown = summary.labels[:_SHOWN_LABELS]
        yield "labels: " + ", ".join(f"{each.label} ({each.count})" for each in shown)
    if summary.HasField("text"):
        text = summary.text
        yield (
            f"characters of a row: {text.min_characters:,} to {text.max_characters:,}, "
            f"half of them up to {text.median_characters:,}, 95 % up to {text.p95_characters:,}"
        )
        # Repeats are warned of, where there are any.
        if not text.duplicate_count:
            yield "no row repeats another"


def _format_word(summary: DatasetSummary) -> str:
    return words.enum_word(DatasetFormat.Name(summary.format), "DATASET_FORMAT_")
