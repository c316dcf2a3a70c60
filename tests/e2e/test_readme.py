"""Every command and every example of the README does what it says there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from demo.digits import digits, write_zip
from weighbridge import spec_file

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
# Enough for the examples to be trained on, few enough to be quick.
EXAMPLES_PER_LABEL = 12


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Return the commands of the section `By hand`, without their comments."""
    by_hand = next(block for block in blocks("sh") if "weighbridge up" in block)
    return [line.split("  #")[0].split(" # ")[0].strip() for line in by_hand.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a directory with what the README's commands find in theirs."""
    place = tmp_path_factory.mktemp("readme")
    chosen = [
        each for label in range(10) for each in [d for d in digits() if d.label == label][:EXAMPLES_PER_LABEL]
    ]
    pictures = place / "build/demo/pictures"
    pictures.mkdir(parents=True)
    write_zip(place / "build/demo/digits.zip", chosen)
    (pictures / "a-7.png").write_bytes(chosen[0].png)
    (place / "examples").mkdir()
    spec = yaml.safe_load((ROOT / "examples/digits-vit.yaml").read_text())
    spec["training"] |= {"num_train_epochs": 1}
    (place / "examples/digits-vit.yaml").write_text(yaml.safe_dump(spec))
    yield place
    run(place, "weighbridge down")


def run(place: Path, command: str) -> str:
    """Run a command as a shell in `place` would, and return what it printed."""
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    env = {**os.environ, "WEIGHBRIDGE_HOME": str(place / "home"), "COLUMNS": "120"}
    done = subprocess.run(words, cwd=place, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_every_command_of_the_readme_runs(place: Path) -> None:
    job = ""
    for command in commands():
        # The port of a README's reader is free; this machine's may not be.
        command = command.replace("weighbridge up", "weighbridge up --port 0")
        if command == "weighbridge down":
            run_python_example(place)
        printed = run(place, command.replace("JOB", job))
        if command.startswith("weighbridge train"):
            job = re.findall(r"^job (\w+)", printed, re.MULTILINE)[0]
    assert job


def run_python_example(place: Path) -> None:
    """Run the README's Python in a directory of its own; the platform is up."""
    ours, theirs = blocks("python")
    (place / "model").rename(place / "model-by-hand")
    for code in (ours, theirs):
        env = {**os.environ, "WEIGHBRIDGE_HOME": str(place / "home")}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=place, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_spec_of_the_readme_is_one() -> None:
    (text,) = blocks("yaml")
    assert spec_file.parse(yaml.safe_load(text), "default").dataset == "projects/default/datasets/questions"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_can_be_read(example: Path) -> None:
    assert spec_file.load(example, "default").dataset


def test_the_two_commands_are_those_of_the_makefile() -> None:
    targets = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE):
        assert f"\n{target}:" in targets
