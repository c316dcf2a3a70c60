"""Imports packages and tells which came: `python -m services.trainer.probe PACKAGE…`, a child of the trainer.

What it prints is one JSON object a package, at once: should a broken one take the process down, it is known
which it was.
"""

import importlib
import importlib.metadata
import json
import os
import sys
from typing import Any


def probe(package: str) -> dict[str, Any]:
    """Import a package; return its version, or the error that importing it gave."""
    try:
        module = importlib.import_module(package)
    # Anything may come out of a foreign package's import, SystemExit included, and all of it is the answer.
    except BaseException as error:  # noqa: BLE001
        return {"package": package, "error": f"{type(error).__name__}: {error}"[:500]}
    found = {"package": package, "version": _version(package, module)}
    if package == "torch":
        found["cuda"] = getattr(getattr(module, "version", None), "cuda", None) or ""
    return found


def _version(package: str, module: object) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown"))


def main(packages: list[str]) -> None:
    """Probe each package and print what was found."""
    # Packages print while they are imported: the answers go where nothing else is written.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for package in packages:
        answers.write(json.dumps(probe(package)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
