"""What the demo shows, in order."""

from pathlib import Path
from typing import Any

from demo.summary import write_summary
from demo.terminal import Terminal

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# The exit code of `check` and of `train --watch` for a job that fits nowhere.
REJECTED = 3


def tell(terminal: Terminal, work: Path, archive: Path, pictures: dict[int, Path]) -> None:
    """Run the whole story on a platform that is up."""
    terminal.heading("1  What there is")
    terminal.run("nodes")

    terminal.heading("2  The data: 1,787 real handwritten digits, one folder a label")
    terminal.run("datasets", "upload", _short(archive))
    terminal.run("datasets", "list")

    terminal.heading("3  Would it fit? Weighed before anything is started")
    terminal.run("check", _example("digits-vit"))

    terminal.heading("4  A Vision Transformer from scratch, through the gate")
    main_job = train(terminal, _example("digits-vit"), "digits")

    terminal.heading("5  The model, on pictures that no job has seen")
    artifact = work / "model"
    terminal.run("jobs", "download", main_job["id"], "--to", _short(artifact))
    terminal.run("predict", main_job["id"], *(_short(pictures[label]) for label in (3, 7, 8)))

    terminal.heading("6  Fine-tuning from 0-4 to 5-9, against the same budget from scratch")
    low = train(terminal, _example("digits-low"), "digits 0-4")
    tuned = train(terminal, _tuned_spec(work, low["id"]), "digits 5-9 fine-tuned")
    scratch = train(terminal, _example("digits-high-scratch"), "digits 5-9 from scratch")

    terminal.heading("7  Refused on purpose")
    terminal.run("check", _example("llama-8b-full"), expect=REJECTED)
    terminal.run("train", _example("flash-attention-on-cpu"), "--watch", expect=REJECTED)

    terminal.heading("8  Who asked for what, and what it took")
    terminal.run("jobs", "list")
    terminal.run("admissions")
    terminal.run("outcomes")

    jobs = {"main": main_job, "tuned": tuned, "scratch": scratch}
    write_summary(terminal, work, artifact, jobs, pictures[7])


def train(terminal: Terminal, spec: str, name: str) -> dict[str, Any]:
    """Train before the user's eyes and return the job, with its short `id`."""
    terminal.run("train", spec, "--watch", "--name", name)
    newest = next(job for job in terminal.read("jobs", "list") if job.get("display_name") == name)
    return {**newest, "id": newest["name"].rpartition("/")[2]}


def _tuned_spec(work: Path, base: str) -> str:
    spec = work / "digits-high-tuned.yaml"
    spec.write_text((EXAMPLES / spec.name).read_text().replace("{job: JOB}", f"{{job: {base}}}"))
    return _short(spec)


def _example(name: str) -> str:
    return _short(EXAMPLES / f"{name}.yaml")


def _short(path: Path) -> str:
    """Return a path as a person would type it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
