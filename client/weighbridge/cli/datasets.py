"""`weighbridge datasets`: upload, import, list, get, delete."""

from pathlib import Path
from typing import Annotated

import typer

from weighbridge.cli import output
from weighbridge.cli.progress import resumable, transfer
from weighbridge.cli.session import JsonFlag, session
from weighbridge.cli.views_datasets import dataset_table, show_dataset
from weighbridge.common.v1.resolved_spec_pb2 import DatasetFormat
from weighbridge.gateway.v1.resources_pb2 import Dataset
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
    with resumable(), transfer(f"uploading {file.name}", quiet=session(ctx).json) as progress:
        dataset = client.datasets.upload(file, name, format=kind, progress=progress)
    _show(ctx, dataset)


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
    output.show(dataset_table(found))


@app.command()
def get(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the data set.")],
    json: JsonFlag = False,
) -> None:
    """Show what a data set holds: examples, labels or lengths of rows, and what looks wrong with it."""
    _show(ctx, session(ctx).client().datasets.get(name))


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
    show_dataset(dataset)


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
