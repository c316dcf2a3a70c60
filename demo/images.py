"""The first act: a Vision Transformer on real images, and two jobs refused on purpose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.digits import Digit, digits, write_zip
from demo.steps import REJECTED, example, going_on_from, short, train
from demo.summary import Section, memory
from demo.terminal import Terminal

HELD_OUT_PER_LABEL = 1


def play(terminal: Terminal, work: Path) -> Section:
    """Play the act on a platform that is up, and return what it came to."""
    held_out, training = _split(digits())
    archive = write_zip(work / "digits.zip", training)
    pictures = _write_pictures(work / "pictures", held_out)

    terminal.heading("1  What there is")
    terminal.run("nodes")

    terminal.heading("2  The data: 1,787 real handwritten digits, one folder a label")
    terminal.run("datasets", "upload", short(archive))
    terminal.run("datasets", "list")

    terminal.heading("3  Would it fit? Weighed before anything is started")
    terminal.run("check", example("digits-vit"))

    terminal.heading("4  A Vision Transformer from scratch, through the gate")
    main_job = train(terminal, example("digits-vit"), "digits")

    terminal.heading("5  The model, on pictures that no job has seen")
    artifact = work / "model"
    terminal.run("jobs", "download", main_job["id"], "--to", short(artifact))
    terminal.run("predict", main_job["id"], *(short(pictures[label]) for label in (3, 7, 8)))

    terminal.heading("6  Fine-tuning from 0-4 to 5-9, against the same budget from scratch")
    low = train(terminal, example("digits-low"), "digits 0-4")
    tuned = train(terminal, going_on_from(work, "digits-high-tuned", low["id"]), "digits 5-9 fine-tuned")
    scratch = train(terminal, example("digits-high-scratch"), "digits 5-9 from scratch")

    terminal.heading("7  Refused on purpose")
    terminal.run("check", example("llama-8b-full"), expect=REJECTED)
    terminal.run("train", example("flash-attention-on-cpu"), "--watch", expect=REJECTED)

    terminal.heading("8  Who asked for what, and what it took")
    terminal.run("jobs", "list")
    terminal.run("admissions")
    terminal.run("outcomes")

    return _section(terminal, artifact, {"main": main_job, "tuned": tuned, "scratch": scratch}, pictures[7])


def _section(
    terminal: Terminal, artifact: Path, jobs: Mapping[str, Mapping[str, Any]], picture: Path
) -> Section:
    lines = [
        ("verdict", jobs["main"]["verdict"]["summary"]),
        ("peak memory", memory(terminal, jobs["main"])),
        ("held-out accuracy, ten digits", _accuracy(jobs["main"])),
        ("digits 5 to 9, fine-tuned from 0 to 4", _accuracy(jobs["tuned"])),
        ("digits 5 to 9, same budget from scratch", _accuracy(jobs["scratch"])),
        ("artifact", str(artifact)),
        (f"{picture.name}, never seen", _guess(terminal, jobs["main"], picture)),
    ]
    return Section("Images", lines, [artifact / "training_curve.png", artifact / "confusion_matrix.png"])


def _split(all_digits: list[Digit]) -> tuple[list[Digit], list[Digit]]:
    """Return a few digits of each label that no job ever sees, and the rest."""
    held_out = [
        digit
        for label in range(10)
        for digit in [each for each in all_digits if each.label == label][-HELD_OUT_PER_LABEL:]
    ]
    taken = {digit.number for digit in held_out}
    return held_out, [digit for digit in all_digits if digit.number not in taken]


def _write_pictures(directory: Path, held_out: list[Digit]) -> dict[int, Path]:
    """Write one held-out picture for each label, and return where each is."""
    directory.mkdir()
    written = {}
    for digit in held_out:
        path = directory / f"a-{digit.label}.png"
        path.write_bytes(digit.png)
        written[digit.label] = path
    return written


def _guess(terminal: Terminal, job: Mapping[str, Any], picture: Path) -> str:
    guess = terminal.read("predict", job["id"], str(picture))[0]["scores"][0]
    return f"{guess['label']} ({guess['probability']:.1%})"


def _accuracy(job: Mapping[str, Any]) -> str:
    return f"{job['metrics']['accuracy']:.1%}"
