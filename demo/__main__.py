"""Train a Vision Transformer on real images through the gate, use it, and see jobs refused: `make demo`."""

import shutil
import sys
import time
from pathlib import Path

from demo.digits import Digit, digits, write_zip
from demo.story import tell
from demo.terminal import Terminal

ROOT = Path(__file__).resolve().parent.parent
HELD_OUT_PER_LABEL = 1


def main() -> int:
    """Run the demo in build/demo, from empty, and return its exit code."""
    work = ROOT / "build" / "demo"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    terminal = Terminal(work / "home")
    begin = time.monotonic()
    held_out, training = _split(digits())
    archive = write_zip(work / "digits.zip", training)
    pictures = _write_pictures(work / "pictures", held_out)
    try:
        with terminal.platform(work / "home"):
            tell(terminal, work, archive, pictures)
    except KeyboardInterrupt:
        terminal.console.print("\ninterrupted; the platform is stopped and no process is left")
        return 130
    terminal.console.print(f"\nThe whole demo took {time.monotonic() - begin:.0f} s.")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
