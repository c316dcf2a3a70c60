"""`weighbridge datasets`: upload, import, list, delete."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli import output, words
from weighbridge.cli.progress import transfer
from weighbridge.cli.session import JsonFlag, session
from weighbridge.common.v1.resolved_spec_pb2 import DatasetFormat
from weighbridge.gateway.v1.resources_pb2 import Dataset
from weighbridge.names import short
from weighbridge.spec_file.values import read_enum

app = typer.Typer(help="Data sets: uploaded once, validated, never changed.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", help="Name of the data set. Default: the file's name.")]
Format = Annotated[
    str, typer.Option(help="image_folder_zip, jsonl, parquet or csv. Default: recognised from the bytes.")
]


@app.command()
def upload(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="A zip with a folder per label, JSON lines, Parquet or CSV.")],
    name: Name = "",
    format: Format = "",
    json: JsonFlag = False,
) -> None:
    """Upload a file. The same command again goes on where a broken upload stopped."""
    name, kind = name or _name_of(file.name), _format(format)
    client = session(ctx).client()
    with _resumable(), transfer(f"uploading {file.name}", quiet=session(ctx).json) as progress:
        dataset = client.datasets.upload(file, name, format=kind, progress=progress)
    _show(ctx, dataset)


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        output.note("stopped: the same command goes on from here")
        raise


@app.command("import")
def import_uri(
    ctx: typer.Context,
    uri: Annotated[str, typer.Argument(help="Where it lies; the platform's settings say what is allowed.")],
    name: Name = "",
    format: Format = "",
    json: JsonFlag = False,
) -> None:
    """Let the platform fetch a data set itself."""
    name = name or _name_of(uri.rpartition("/")[2])
    _show(ctx, session(ctx).client().datasets.import_uri(uri, name, format=_format(format)))


@app.command("list")
def list_all(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, newest first.")] = 50,
    json: JsonFlag = False,
) -> None:
    """List data sets, newest first."""
    found = session(ctx).client().datasets.list(limit)
    if session(ctx).json:
        for dataset in found:
            output.json_line(dataset)
        return
    made = output.table(
        "NAME",
        "FORMAT",
        "EXAMPLES",
        "LABELS",
        "SIZE",
        "CREATED",
        right=("EXAMPLES", "LABELS", "SIZE"),
        prose=("FORMAT",),
    )
    for dataset in found:
        made.add_row(
            short(dataset.name),
            _format_word(dataset),
            f"{dataset.summary.example_count:,}",
            str(len(dataset.summary.labels) or ""),
            words.size(dataset.summary.size_bytes),
            words.ago(dataset.create_time),
        )
    output.show(made)


@app.command()
def delete(
    ctx: typer.Context,
    name: Annotated[list[str], typer.Argument(help="Names of data sets.")],
    json: JsonFlag = False,
) -> None:
    """Remove data sets that no unfinished job names."""
    client = session(ctx).client()
    for each in name:
        client.datasets.delete(each)
        if session(ctx).json:
            output.json_line({"deleted": each})
        else:
            output.say(f"data set {each} is deleted")


def _show(ctx: typer.Context, dataset: Dataset) -> None:
    if session(ctx).json:
        output.json_line(dataset)
        return
    summary = dataset.summary
    labels = f", {len(summary.labels)} labels" if summary.labels else ""
    output.say(
        f"data set {short(dataset.name)}: {words.many(summary.example_count, 'example')}{labels}, "
        f"{words.size(summary.size_bytes)}, {_format_word(dataset)}"
    )
    if summary.labels:
        output.say(
            "labels: " + ", ".join(f"{each.label} ({each.count})" for each in summary.labels[:20]), "dim"
        )
    for warning in dataset.warnings:
        output.say(f"warning: {warning}", "yellow")


def _format_word(dataset: Dataset) -> str:
    return words.enum_word(DatasetFormat.Name(dataset.summary.format), "DATASET_FORMAT_")


def _format(text: str) -> DatasetFormat.ValueType:
    if not text:
        return DatasetFormat.DATASET_FORMAT_UNSPECIFIED
    try:
        return DatasetFormat.ValueType(read_enum(DatasetFormat.DESCRIPTOR, text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--format") from error


def _name_of(file_name: str) -> str:
    """Return the data set's name that a file's name suggests: `My Digits.zip` is `my-digits`."""
    stem = file_name.partition(".")[0].lower()
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in stem).strip("-")[
        :63
    ]
