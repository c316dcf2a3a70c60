"""What can be imported: found out in a child, whatever the packages do to it."""

import subprocess
import sys
from pathlib import Path

import pytest

from services.trainer.capabilities import Capabilities
from tests.common.processes import ROOT


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose modules the child can import."""
    (tmp_path / "good_one.py").write_text("print('hello'); __version__ = '1.2'")
    (tmp_path / "bad_one.py").write_text("raise RuntimeError('no such driver')")
    (tmp_path / "deadly_one.py").write_text("import os; os.abort()")
    (tmp_path / "leaving_one.py").write_text("raise SystemExit(0)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    return tmp_path


async def test_each_package_is_found_out_about(packages: Path) -> None:
    names = ["good_one", "bad_one", "deadly_one", "leaving_one", "absent_one", "json"]
    software = await Capabilities(names, packages / "kept.json").software()
    assert list(software.packages) == ["good_one", "json"]
    assert software.packages["good_one"] == "1.2"
    errors = software.import_errors
    assert errors["bad_one"] == "RuntimeError: no such driver"
    assert "status -6" in errors["deadly_one"]
    assert "SystemExit" in errors["leaving_one"]
    assert "ModuleNotFoundError" in errors["absent_one"]
    assert software.report_time is not None


async def test_findings_are_kept_until_other_versions_are_installed(packages: Path) -> None:
    kept = packages / "kept.json"
    await Capabilities(["good_one"], kept).software()
    (packages / "good_one.py").unlink()
    assert "good_one" in (await Capabilities(["good_one"], kept).software()).packages
    assert "json" in (await Capabilities(["good_one", "json"], kept).software()).packages


async def test_unreadable_findings_are_found_anew(packages: Path) -> None:
    (packages / "kept.json").write_text("[")
    assert "good_one" in (await Capabilities(["good_one"], packages / "kept.json").software()).packages


def test_the_serving_process_imports_no_heavy_library() -> None:
    heavy = {"torch", "torchvision", "transformers", "peft", "accelerate", "numpy", "PIL"}
    found = f"{heavy} & sys.modules.keys()"
    code = f"import sys, services.trainer.server; sys.exit(str({found}) if {found} else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
