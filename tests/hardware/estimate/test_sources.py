import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import FileTree, ModelSource, SecretReference, Task
from services.hardware.estimate.sources.reading import Places, read_source
from services.hardware.estimate.sources.source import Source
from tests.hardware.estimate.models import TINY_LLAMA, TINY_VIT, write_model
from tests.hardware.samples import training_spec

JOB = "projects/default/trainingJobs/base"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(places: Places, tree: FileTree | None = None, **model: Any) -> Source:
    secrets, task = model.pop("secrets", ()), model.pop("task", Task.IMAGE_CLASSIFICATION)
    spec = training_spec(task=task, model=ModelSource(**model), secrets=secrets)
    return read_source(spec, tree, "default", places)


def refusal(places: Places, tree: FileTree | None = None, **model: Any) -> str:
    with pytest.raises(InvalidModel) as caught:
        read(places, tree, **model)
    return str(caught.value)


def test_a_directory_under_the_model_root_is_read(places: Places) -> None:
    write_model(places.model_root / "lab" / "vit", model_safetensors=b"12345", preprocessor_config_json=b"{}")
    (places.model_root / "lab/vit/preprocessor_config.json").write_text('{"size": {"height": 32}}')
    source = read(places, path="lab/vit")
    assert source.config == TINY_VIT
    assert [(file.path, file.size_bytes) for file in source.weight_files] == [("model.safetensors", 5)]
    assert (source.location, source.pretrained) == ("lab/vit", True)
    assert "height" in source.processor.settings_json
    # Of no use to whoever prepares images.
    assert [file.path for file in source.processor.files] == ["preprocessor_config.json"]


@pytest.mark.parametrize("path", ["../secret", "/etc", "lab/../../secret", ".", "lab/link"])
def test_nothing_outside_the_model_root_is_read(places: Places, tmp_path: Path, path: str) -> None:
    write_model(tmp_path / "secret")
    (places.model_root / "lab").mkdir()
    (places.model_root / "lab" / "link").symlink_to(tmp_path / "secret")
    assert "leads out of the model root" in refusal(places, path=path)


def test_a_mistyped_directory_is_answered_with_the_nearest(places: Places) -> None:
    write_model(places.model_root / "vit-base")
    assert "did you mean vit-base?" in refusal(places, path="vit-bsae")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"pytorch_model.bin": b"x"}, "pytorch_model.bin is pickle"),
        ({"weights.pt": b"x"}, "weights.pt is pickle"),
        ({}, "it has no weights"),
        ({"model.safetensors": b"x", "modeling_vit.py": b"x"}, "modeling_vit.py is code"),
        ({"model.safetensors": b"x", "deep/inside/code.py": b"x"}, "deep/inside/code.py is code"),
    ],
)
def test_files_that_could_run_code_are_refused(places: Places, files: dict[str, bytes], reason: str) -> None:
    directory = places.model_root / "m"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(TINY_VIT))
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    assert reason in refusal(places, path="m")


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ({"auto_map": {"AutoModel": "modeling.Vit"}}, "config.auto_map asks to run code"),
        (
            {"text_config": {"auto_map": {"AutoConfig": "x.Y"}}},
            "config.text_config.auto_map asks to run code",
        ),
        ({"parts": [{"deep": {"auto_map": {"A": "b"}}}]}, "config.parts[0].deep.auto_map asks to run code"),
        ({"trust_remote_code": True}, "config.trust_remote_code asks to run code"),
        ({"use_pretrained_backbone": True}, "fetches what the spec does not name"),
        ({"_attn_implementation": "someone/kernel"}, "fetches what the spec does not name"),
        (
            {"attn_implementation": {"text_config": "someone/kernel"}},
            "config.attn_implementation fetches what the spec does not name",
        ),
        ({"_experts_implementation": "someone/experts"}, "fetches what the spec does not name"),
        ({"quantization_config": {"quant_method": "gptq"}}, "stored quantised"),
    ],
)
def test_configurations_that_reach_for_code_are_refused(
    places: Places, added: dict[str, Any], reason: str
) -> None:
    write_model(places.model_root / "m", {**TINY_VIT, **added})
    assert reason in refusal(places, path="m")
    assert reason in refusal(places, config={**TINY_VIT, **added})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"auto_map": {"AutoTokenizer": ["x.Y", None]}},
            "tokenizer_config.json.auto_map asks to run code",
        ),
        ({"extra": [{"trust_remote_code": True}]}, "tokenizer_config.json.extra[0].trust_remote_code asks"),
    ],
)
def test_tokenizers_that_reach_for_code_are_refused(
    places: Places, settings: dict[str, Any], reason: str
) -> None:
    directory = write_model(places.model_root / "m", TINY_LLAMA)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert reason in refusal(places, path="m", task=Task.SFT)


def write_tokenizer(directory: Path, settings: dict[str, Any]) -> Path:
    """Write a language model with a tokenizer of three tokens."""
    write_model(directory, TINY_LLAMA)
    vocabulary = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "</s>"}]}
    (directory / "tokenizer.json").write_text(json.dumps(vocabulary))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "generation_config.json").write_text("{}")
    (directory / "README.md").write_text("#")
    return directory


TOKENIZER = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]


def test_the_tokenizers_files_and_template_are_read_from_a_directory(places: Places) -> None:
    directory = write_tokenizer(places.model_root / "m", {"chat_template": "{{ messages }}"})
    processor = read(places, path="m", task=Task.SFT).processor
    assert [file.path for file in processor.files] == TOKENIZER
    digest = hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest()
    assert processor.files[1].sha256 == digest
    assert (processor.chat_template, processor.token_count) == ("{{ messages }}", 3)
    # The file of its own is what transformers takes where there are both.
    (directory / "chat_template.jinja").write_text("own file")
    assert read(places, path="m", task=Task.SFT).processor.chat_template == "own file"


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ([{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], "d"),
        ([{"name": "rag", "template": "r"}], "r"),
        ([], ""),
        (None, ""),
        (7, ""),
    ],
)
def test_of_several_templates_the_default_is_taken(places: Places, templates: Any, expected: str) -> None:
    write_tokenizer(places.model_root / "m", {"chat_template": templates})
    assert read(places, path="m", task=Task.SFT).processor.chat_template == expected


def test_the_tokenizer_of_another_jobs_artifact_is_read_from_the_store(
    places: Places, tmp_path: Path
) -> None:
    directory = write_tokenizer(tmp_path / "artifact", {"chat_template": "{{ messages }}"})
    tree = places.store.put_tree(directory)
    processor = read(places, tree, job=JOB, task=Task.DPO).processor
    assert [file.path for file in processor.files] == TOKENIZER
    assert all(len(file.sha256) == 64 for file in processor.files)
    assert (processor.chat_template, processor.token_count) == ("{{ messages }}", 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "is not JSON"), ("[]", "holds no JSON object"), ("[" * 100_000, "is not JSON")],
)
def test_a_broken_configuration_is_refused(places: Places, content: str, reason: str) -> None:
    (write_model(places.model_root / "m") / "config.json").write_text(content)
    assert reason in refusal(places, path="m")


def test_a_directory_without_a_configuration_is_refused(places: Places) -> None:
    (write_model(places.model_root / "m") / "config.json").unlink()
    assert "it has no config.json" in refusal(places, path="m")


def test_a_configuration_without_an_architecture_is_refused(places: Places) -> None:
    assert "model_type is missing" in refusal(places, config={"hidden_size": 3})


def test_another_jobs_artifact_is_read_from_the_store(places: Places, tmp_path: Path) -> None:
    directory = write_model(tmp_path / "artifact", model_safetensors=b"weights", card_md=b"#")
    (directory / "adapter").mkdir()
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(b"beside")
    tree = places.store.put_tree(directory)
    source = read(places, tree, job=JOB)
    assert (source.config, source.artifact_digest) == (TINY_VIT, tree.digest)
    (weights,) = source.weight_files
    entry = next(entry for entry in tree.files if entry.path == "model.safetensors")
    assert (weights.path, f"sha256:{weights.sha256}") == ("model.safetensors", entry.digest)


def test_a_job_without_an_artifact_is_no_model_yet(places: Places) -> None:
    assert "wait until it has succeeded" in refusal(places, None, job=JOB)


def test_an_artifact_that_is_gone_or_incomplete_is_refused(places: Places, tmp_path: Path) -> None:
    tree = places.store.put_tree(write_model(tmp_path / "artifact"))
    for entry in tree.files:
        places.store.delete(entry.digest)
    assert "cannot be read from the store" in refusal(places, tree, job=JOB)
    empty = places.store.put_tree(write_model(tmp_path / "empty", adapter_bin=b"x"))
    assert "it has no weights" in refusal(places, empty, job=JOB)


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as naming a model takes; one repository is gated by a token."""

    FILES = ("config.json", "preprocessor_config.json", "model.safetensors", "README.md")
    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("authorization"))
        if self.path.startswith("/api/models/lab/vit/revision/main"):
            lfs = {"sha256": "ab" * 32, "size": 5, "pointerSize": 1}
            siblings = [
                {"rfilename": name, "size": 5, **({"lfs": lfs} if name.endswith(".safetensors") else {})}
                for name in self.FILES
            ]
            self.answer(200, {"id": "lab/vit", "sha": COMMIT, "siblings": siblings})
        elif self.path == f"/lab/vit/resolve/{COMMIT}/config.json":
            self.answer(200, TINY_VIT)
        elif self.path == f"/lab/vit/resolve/{COMMIT}/preprocessor_config.json":
            self.answer(200, {"size": 32})
        elif self.path == f"/lab/vit/resolve/{COMMIT}/tokenizer_config.json":
            self.answer(200, {"chat_template": "{{ messages }}", "added_tokens_decoder": {"49151": {}}})
        elif self.path.startswith("/api/models/lab/vit/"):
            self.answer(404, {"error": "no"}, "RevisionNotFound")
        elif self.path.startswith("/api/models/lab/gated/"):
            self.answer(403, {"error": "no"}, "GatedRepo")
        elif self.path.startswith("/api/models/lab/broken/"):
            self.answer(500, {"error": "no"})
        else:
            self.answer(404, {"error": "no"}, "RepoNotFound")

    def answer(self, status: int, body: dict[str, Any], code: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        if code:
            self.send_header("x-error-code", code)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    FakeHub.tokens = []
    point_at(monkeypatch, endpoint)
    yield FakeHub
    server.shutdown()
    server.server_close()
    thread.join()


def point_at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_repository_is_pinned_to_its_commit(places: Places, hub: type[FakeHub]) -> None:
    source = read(places, hub="lab/vit")
    assert (source.revision, source.location, source.config) == (COMMIT, "lab/vit", TINY_VIT)
    (weights,) = source.weight_files
    assert (weights.path, weights.sha256) == ("model.safetensors", "ab" * 32)
    assert source.processor.settings_json == '{"size": 32}'
    # No token was named, so none is sent, whatever lies about on the machine.
    assert set(hub.tokens) == {None}


def test_a_vocabulary_of_the_hub_is_named_and_not_downloaded(
    places: Places, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    monkeypatch.setattr(hub, "FILES", files)
    processor = read(places, hub="lab/vit", task=Task.SFT).processor
    assert [file.path for file in processor.files] == ["tokenizer.json", "tokenizer_config.json"]
    assert (processor.chat_template, processor.token_count) == ("{{ messages }}", 49152)
    # What it is, its configuration, and the tokenizer's.
    assert len(hub.tokens) == 3


def test_the_token_is_the_projects_secret(places: Places, hub: type[FakeHub]) -> None:
    (places.secrets_dir / "default").mkdir(parents=True)
    (places.secrets_dir / "default" / "hub-token").write_text("hf_secret\n")
    read(places, hub="lab/vit", secrets=(SecretReference(env="HF_TOKEN", secret="hub-token"),))
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_a_secret_that_is_not_there_is_named(places: Places) -> None:
    with pytest.raises(InvalidSpec, match="project default has no such secret"):
        read(places, hub="lab/vit", secrets=(SecretReference(env="HF_TOKEN", secret="hub-token"),))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({"hub": "lab/unknown"}, "no such repository"),
        ({"hub": "lab/gated"}, "ask for consent"),
        ({"hub": "lab/vit", "revision": "v9"}, "no revision 'v9'"),
        ({"hub": "lab/broken"}, "cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_told(
    places: Places, hub: type[FakeHub], model: dict[str, str], reason: str
) -> None:
    assert reason in refusal(places, **model)


def test_without_a_network_the_other_sources_are_named(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(monkeypatch, "http://127.0.0.1:9")
    assert "use model.path, model.config or model.job" in refusal(places, hub="lab/vit")


def test_pickles_and_code_of_the_hub_are_refused(
    places: Places, hub: type[FakeHub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "FILES", ("config.json", "pytorch_model.bin"))
    assert "pytorch_model.bin is pickle" in refusal(places, hub="lab/vit")
    monkeypatch.setattr(hub, "FILES", ("config.json", "model.safetensors", "modeling_vit.py"))
    assert "modeling_vit.py is code" in refusal(places, hub="lab/vit")
