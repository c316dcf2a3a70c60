"""Steps that both acts take."""

from pathlib import Path
from typing import Any

from demo.terminal import Terminal

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# The exit code of `check` and of `train --watch` for a job that fits nowhere.
REJECTED = 3


def train(terminal: Terminal, spec: str, name: str) -> dict[str, Any]:
    """Train before the user's eyes and return the job, with its short `id`."""
    terminal.run("train", spec, "--watch", "--name", name)
    newest = next(job for job in terminal.read("jobs", "list") if job.get("display_name") == name)
    return {**newest, "id": newest["name"].rpartition("/")[2]}


def example(name: str) -> str:
    """Return the path of an example's spec."""
    return short(EXAMPLES / f"{name}.yaml")


def going_on_from(work: Path, name: str, base: str) -> str:
    """Return the path of a copy, in `work`, of an example that goes on from the job `base`."""
    spec = work / f"{name}.yaml"
    spec.write_text((EXAMPLES / spec.name).read_text().replace("{job: JOB}", f"{{job: {base}}}"))
    return short(spec)


def short(path: Path) -> str:
    """Return a path as a person would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
