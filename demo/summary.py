"""What the demo leaves: the figures in a few lines, and where the pictures are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from demo.terminal import Terminal

Job = Mapping[str, Any]
_GIB = 1 << 30


def write_summary(
    terminal: Terminal, work: Path, artifact: Path, jobs: Mapping[str, Job], picture: Path
) -> None:
    """Print the summary and write it to summary.md beside what it names."""
    lines = _lines(terminal, artifact, jobs, picture)
    terminal.heading("Summary")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in lines:
        table.add_row(f"[bold]{name}", value)
    terminal.console.print(table)
    pictures = "\n\n".join(f"![{name}](model/{name}.png)" for name in ("training_curve", "confusion_matrix"))
    text = "\n".join(f"| {name} | {value} |" for name, value in lines)
    (work / "summary.md").write_text(f"# What the demo did\n\n| | |\n|---|---|\n{text}\n\n{pictures}\n")
    terminal.console.print(f"\nThis summary with its pictures: {work / 'summary.md'}")


def _lines(
    terminal: Terminal, artifact: Path, jobs: Mapping[str, Job], picture: Path
) -> list[tuple[str, str]]:
    node = terminal.read("nodes")[0]["snapshot"]
    outcome = next(o for o in terminal.read("outcomes") if o["run"].startswith(f"runs/{jobs['main']['id']}-"))
    predicted, measured = (int(outcome[key]) / _GIB for key in ("predicted_bytes", "measured_bytes"))
    guess = terminal.read("predict", jobs["main"]["id"], str(picture))[0]["scores"][0]
    return [
        ("node", f"{node['name']}, {node['cpu']['usable_cores']:g} cores, {_devices(node)}"),
        ("verdict", jobs["main"]["verdict"]["summary"]),
        ("peak memory", f"{predicted:.2f} GiB predicted, {measured:.2f} GiB measured"),
        ("held-out accuracy, ten digits", _accuracy(jobs["main"])),
        ("digits 5 to 9, fine-tuned from 0 to 4", _accuracy(jobs["tuned"])),
        ("digits 5 to 9, same budget from scratch", _accuracy(jobs["scratch"])),
        ("artifact", str(artifact)),
        (f"{picture.name}, never seen", f"{guess['label']} ({guess['probability']:.1%})"),
    ]


def _devices(node: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{device['id']} {int(device['capacity_bytes']) / _GIB:.1f} GiB" for device in node["devices"]
    )


def _accuracy(job: Job) -> str:
    return f"{job['metrics']['accuracy']:.1%}"
