"""Starting from weights: another job's artifact, a model of the node, a repository of a hub."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from services.common.specs import ModelSource, ResolvedSpec, TrainingSpec, WeightFile
from services.trainer.runs.directory import RunDirectory
from tests.trainer.specs import LORA, SPEC, TRAINING, resolved
from tests.trainer.worker.rundirs import LABELS, events, outcome, write_run, write_zip
from tests.trainer.worker.warm import Warm

OTHER_LABELS = ("cone", "cube", "star")
SHORT = replace(SPEC, training=replace(TRAINING, num_train_epochs=None, max_steps=3))
# So small a step that the weights stay where they came from.
FROM_JOB = replace(
    SHORT,
    model=ModelSource(job="projects/default/trainingJobs/first"),
    training=replace(SHORT.training or TRAINING, learning_rate=1e-12, weight_decay=0.0),
)
BACKBONE = "vit.embeddings.patch_embeddings.projection.weight"
HEAD = "classifier.weight"


@pytest.fixture(scope="module")
def artifacts(workers: Warm, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artifacts of a full training and of an adapter on random weights."""
    root = tmp_path_factory.mktemp("artifacts")
    found = {}
    for name, lora in (("full", None), ("lora", LORA)):
        run = write_run(root / name, resolved(replace(SHORT, lora=lora), shapes, LABELS), shapes)
        assert outcome(workers.run(run))["state"] == "succeeded", run.log_file.read_text()
        found[name] = run.artifact
    return found


def tensors(artifact: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {
        name: tensor.numpy().tobytes() for name, tensor in load_file(artifact / "model.safetensors").items()
    }


def told(directory: RunDirectory) -> str:
    return "\n".join(event["message"] for event in events(directory, "notice"))


def close(left: bytes, right: bytes) -> bool:
    import numpy as np

    return bool(np.allclose(np.frombuffer(left, np.float32), np.frombuffer(right, np.float32), atol=1e-6))


@pytest.mark.parametrize("base", ["full", "lora"])
def test_artifact_of_a_job_is_gone_on_from_with_a_new_head(
    workers: Warm, artifacts: dict[str, Path], tmp_path: Path, base: str
) -> None:
    data = write_zip(tmp_path / "data.zip", OTHER_LABELS)
    run = write_run(
        tmp_path / "run", resolved(FROM_JOB, data, OTHER_LABELS), data, base_model=artifacts[base]
    )
    assert outcome(workers.run(run))["state"] == "succeeded", run.log_file.read_text()
    before, after = tensors(artifacts[base]), tensors(run.artifact)
    assert close(before[BACKBONE], after[BACKBONE])
    # As many labels as before, but others: the old head means nothing.
    assert len(before[HEAD]) == len(after[HEAD])
    assert not close(before[HEAD], after[HEAD])
    assert "a new head of 3 labels" in told(run)


def test_artifact_of_a_job_with_the_same_labels_keeps_its_head(
    workers: Warm, artifacts: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    run = write_run(
        tmp_path / "run", resolved(FROM_JOB, shapes, LABELS), shapes, base_model=artifacts["full"]
    )
    assert outcome(workers.run(run))["state"] == "succeeded"
    assert close(tensors(artifacts["full"])[HEAD], tensors(run.artifact)[HEAD])
    assert "its labels are the same" in told(run)


def test_adapter_on_a_job_resumes_on_the_same_base(
    workers: Warm, artifacts: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    job = resolved(replace(FROM_JOB, lora=LORA), shapes, LABELS)
    whole = write_run(tmp_path / "whole", job, shapes, base_model=artifacts["full"])
    workers.run(whole)
    start = whole.local_checkpoints()[2]
    resumed = write_run(tmp_path / "resumed", job, shapes, base_model=artifacts["full"], start_from=start)
    workers.run(resumed)
    assert tensors(whole.artifact) == tensors(resumed.artifact)
    assert {path.name for path in (resumed.artifact / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


@pytest.mark.filterwarnings("ignore")
def test_adapter_of_an_artifact_gives_the_merged_model_on_its_base(
    workers: Warm, artifacts: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    job = resolved(replace(SHORT, model=FROM_JOB.model, lora=LORA), shapes, LABELS)
    run = write_run(tmp_path / "run", job, shapes, base_model=artifacts["full"])
    workers.run(run)
    merged = AutoModelForImageClassification.from_pretrained(run.artifact).eval()
    base = AutoModelForImageClassification.from_pretrained(artifacts["full"])
    adapted = PeftModel.from_pretrained(base, run.artifact / "adapter").eval()
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.allclose(merged(pixel_values=pixels).logits, adapted(pixel_values=pixels).logits, atol=1e-5)
    assert not torch.allclose(merged(pixel_values=pixels).logits, base.base_model(pixels)[0][:, 0, :3])


def test_artifact_of_another_architecture_is_refused(
    workers: Warm, artifacts: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    job = resolved(FROM_JOB, shapes, LABELS, num_hidden_layers=3)
    run = workers.run(write_run(tmp_path / "run", job, shapes, base_model=artifacts["full"]))
    assert outcome(run)["failure"]["reason"] == "INVALID_MODEL"
    assert "missing vit.layers.2" in outcome(run)["failure"]["message"]


def of_files(spec: TrainingSpec, data: Path, folder: Path, location: str, **source: str) -> ResolvedSpec:
    """Return a spec on a directory of weights, pinned as the resolver pins it."""
    job = resolved(replace(spec, model=ModelSource(**source)), data, LABELS)
    content = (folder / "model.safetensors").read_bytes()
    file = WeightFile(
        path="model.safetensors", size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    model = replace(
        job.model, location=location, weight_files=(file,), revision="c0ffee" if "hub" in source else ""
    )
    return replace(job, model=model)


def test_model_of_the_node_is_what_was_resolved_or_refused(
    workers: Warm, artifacts: dict[str, Path], shapes: Path, tmp_path: Path
) -> None:
    shutil.copytree(artifacts["full"], tmp_path / "models" / "vit")
    job = of_files(FROM_JOB, shapes, tmp_path / "models" / "vit", "vit", path="vit")
    run = write_run(tmp_path / "run", job, shapes, model_root=tmp_path / "models")
    assert outcome(workers.run(run))["state"] == "succeeded", run.log_file.read_text()
    assert close(tensors(artifacts["full"])[HEAD], tensors(run.artifact)[HEAD])

    weights = tmp_path / "models" / "vit" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = workers.run(write_run(tmp_path / "changed", job, shapes, model_root=tmp_path / "models"))
    assert outcome(changed)["failure"]["reason"] == "FETCH_FAILED"
    assert outcome(changed)["failure"]["metadata"]["item"] == "model.safetensors"


@contextmanager
def fake_hub(repository: str, folder: Path) -> Iterator[str]:
    """Serve a directory as a model hub serves a repository."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            name = self.path.removeprefix(f"/{repository}/resolve/c0ffee/")
            path = folder / name
            found = name != self.path and path.is_file()
            data = path.read_bytes() if found else b""
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "c0ffee")
            if not found:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


FETCH = """
import json, sys
from pathlib import Path
from services.common.specs import WeightFile
from services.trainer.work.events import EventWriter
from services.trainer.work.errors import FetchFailed
from services.trainer.work.hub import fetch_from_hub
name, size, log = sys.argv[1:]
files = (WeightFile(path=name, size_bytes=int(size)),)
try:
    events = EventWriter(Path(log))
    print(fetch_from_hub("someone/vit", "c0ffee", files, ["config.json", "absent.json"], events))
except FetchFailed as error:
    print(f"{error.item} failed")
"""


def fetch(endpoint: str, name: str, size: int, tmp_path: Path) -> str:
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, name, str(size), str(tmp_path / "events.jsonl")],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, **env, "HF_HUB_OFFLINE": "0"},
    )
    return done.stdout.strip()


def test_model_of_a_hub_is_fetched_at_its_commit_with_progress(
    artifacts: dict[str, Path], tmp_path: Path
) -> None:
    size = (artifacts["full"] / "model.safetensors").stat().st_size
    with fake_hub("someone/vit", artifacts["full"]) as endpoint:
        folder = Path(fetch(endpoint, "model.safetensors", size, tmp_path))
        assert fetch(endpoint, "nothing.safetensors", 1, tmp_path) == "someone/vit/nothing.safetensors failed"
    assert tensors(folder) == tensors(artifacts["full"])
    assert (folder / "config.json").exists()
    phases = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert phases[-1]["total_bytes"] in (size, 1)
    assert any(phase["done_bytes"] == size for phase in phases)
