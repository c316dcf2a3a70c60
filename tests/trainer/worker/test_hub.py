"""Weights of the hub on their way to a run: told as they come, and not begun where they cannot fit."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.fake_hub import COMMIT, REPOSITORY, FakeHub, serving

WEIGHTS = {"model-1.safetensors": os.urandom(50_000), "model-2.safetensors": os.urandom(70_000)}
# As a worker does it: in a process whose library has read its environment.
FETCH = """
import json, sys
from pathlib import Path
from services.common.specs import WeightFile
from services.trainer.work.errors import FetchFailed
from services.trainer.work.events import EventWriter
from services.trainer.work.hub import fetch_from_hub
repository, commit, sizes, log = sys.argv[1:]
files = [WeightFile(path=name, size_bytes=size) for name, size in json.loads(sizes).items()]
try:
    print(fetch_from_hub(repository, commit, files, ["config.json"], EventWriter(Path(log))))
except FetchFailed as error:
    print("failed", error.item, error.detail)
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({"config.json": b"{}", **WEIGHTS})) as served:
        yield served


def fetch(hub: FakeHub, directory: Path, **sizes: int) -> str:
    """Fetch files of these sizes; returns where they are, or why they are not."""
    wanted = {name: len(data) for name, data in WEIGHTS.items()}
    wanted |= {name.replace("_", "-") + ".safetensors": size for name, size in sizes.items()}
    arguments = [REPOSITORY, COMMIT, json.dumps(wanted), str(directory / "events.jsonl")]
    env = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(directory / "hub"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, *arguments],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, **env},
    )
    return done.stdout.strip()


def told(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "events.jsonl").read_text().splitlines()]


def test_a_download_that_the_disk_has_no_room_for_does_not_begin(hub: FakeHub, tmp_path: Path) -> None:
    enormous = 1 << 60
    said = fetch(hub, tmp_path, model_2=enormous)
    assert said.startswith(f"failed {REPOSITORY} {enormous + 50_000:,} bytes are missing")
    assert "has" in said
    assert "free" in said
    assert hub.gets == []


def test_what_was_pulled_before_needs_no_room_and_counts_as_done(hub: FakeHub, tmp_path: Path) -> None:
    folder = Path(fetch(hub, tmp_path))
    assert {name: (folder / name).read_bytes() for name in WEIGHTS} == WEIGHTS
    total = sum(map(len, WEIGHTS.values()))
    assert (told(tmp_path)[-1]["done_bytes"], told(tmp_path)[-1]["total_bytes"]) == (total, total)
    hub.gets.clear()
    fetch(hub, tmp_path)
    assert hub.gets == []
    assert told(tmp_path)[-1]["done_bytes"] == total
