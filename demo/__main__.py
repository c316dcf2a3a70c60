"""Train an image classifier and a language model through the gate, and use them: `make demo`."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from demo import images, text
from demo.summary import write_summary
from demo.terminal import Terminal

ROOT = Path(__file__).resolve().parent.parent
ACTS = {"images": images.play, "text": text.play}


def main() -> int:
    """Run the demo in build/demo, from empty, and return its exit code."""
    chosen = _chosen_acts()
    work = ROOT / "build" / "demo"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    terminal = Terminal(work / "home")
    begin = time.monotonic()
    try:
        with terminal.platform(work / "home"):
            sections = [ACTS[act](terminal, work) for act in chosen]
            write_summary(terminal, work, sections)
    except KeyboardInterrupt:
        terminal.console.print("\ninterrupted; the platform is stopped and no process is left")
        return 130
    terminal.console.print(f"\nThe whole demo took {time.monotonic() - begin:.0f} s.")
    return 0


def _chosen_acts() -> list[str]:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--act", choices=ACTS, help="play only this act")
    act = parser.parse_args().act
    return [act] if act else list(ACTS)


if __name__ == "__main__":
    sys.exit(main())
