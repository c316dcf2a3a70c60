"""What the demo leaves: the figures in a few lines, and where the pictures are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from demo.terminal import Terminal

_GIB = 1 << 30


@dataclass(frozen=True)
class Section:
    """What one act came to."""

    title: str
    lines: Sequence[tuple[str, str]]
    """Each figure's name, and the figure in words."""
    pictures: Sequence[Path]


def write_summary(terminal: Terminal, work: Path, sections: Sequence[Section]) -> None:
    """Print the summary and write it to summary.md beside what it names."""
    sections = [Section("Node", [("node", _node(terminal))], []), *sections]
    terminal.heading("Summary")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in (line for section in sections for line in section.lines):
        # What a model says may look like markup.
        table.add_row(Text(name, "bold"), Text(value))
    terminal.console.print(table)
    parts = [_markdown(section, work) for section in sections]
    (work / "summary.md").write_text("\n".join(["# What the demo did\n", *parts]))
    terminal.console.print(f"\nThis summary with its pictures: {work / 'summary.md'}")


def memory(terminal: Terminal, job: Mapping[str, Any]) -> str:
    """Return a job's predicted and measured peak in words."""
    outcome = next(o for o in terminal.read("outcomes") if o["run"].startswith(f"runs/{job['id']}-"))
    predicted, measured = (int(outcome[key]) / _GIB for key in ("predicted_bytes", "measured_bytes"))
    return f"{predicted:.2f} GiB predicted, {measured:.2f} GiB measured"


def _markdown(section: Section, work: Path) -> str:
    rows = [f"| {name} | {' '.join(value.replace('|', '/').split())} |" for name, value in section.lines]
    pictures = [f"![{path.stem}]({path.relative_to(work)})\n" for path in section.pictures]
    return "\n".join([f"## {section.title}\n", "| | |", "|---|---|", *rows, "", *pictures])


def _node(terminal: Terminal) -> str:
    node = terminal.read("nodes")[0]["snapshot"]
    devices = ", ".join(
        f"{device['id']} {int(device['capacity_bytes']) / _GIB:.1f} GiB" for device in node["devices"]
    )
    return f"{node['name']}, {node['cpu']['usable_cores']:g} cores, {devices}"
