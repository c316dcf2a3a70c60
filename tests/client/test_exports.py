"""Exports: the whole model, the adapter without its base, and a GGUF file where there is a converter."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tests.client.fake_gateway import TOKEN, FakeGateway, State, World
from weighbridge import exceptions as e
from weighbridge.cli.app import app
from weighbridge.cli.exits import Exit
from weighbridge.client import Client
from weighbridge.exporting import CONVERTER, CONVERTER_VARIABLE, Form
from weighbridge.gateway.v1 import service_pb2 as api

MERGED = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": b"w" * 5000,
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# card",
}
ADAPTER = {"adapter/adapter_config.json": b"{}", "adapter/adapter_model.safetensors": b"a" * 100}
# What llama.cpp's converter takes and leaves; one that takes any model would have to be one.
FAKE_CONVERTER = """
import json, pathlib, sys
model, outfile, path, outtype, kind = sys.argv[1:]
assert (outfile, outtype) == ("--outfile", "--outtype")
architecture = json.loads((pathlib.Path(model) / "config.json").read_text())["architectures"][0]
if architecture != "LlamaForCausalLM":
    sys.exit(f"Model {architecture} is not supported")
weights = (pathlib.Path(model) / "model.safetensors").read_bytes()
pathlib.Path(path).write_bytes(b"GGUF " + kind.encode() + weights)
"""


@pytest.fixture(autouse=True)
def no_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CONVERTER_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def converter(tmp_path: Path) -> Path:
    path = tmp_path / "llama.cpp" / CONVERTER
    path.parent.mkdir()
    path.write_text(FAKE_CONVERTER)
    return path


def give(world: World, *parts: dict[str, bytes]) -> None:
    world.job.state = State.STATE_SUCCEEDED
    for path, data in {name: data for part in parts for name, data in part.items()}.items():
        world.files[path] = data
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        world.job.artifact.files.add(path=path, digest=digest, size_bytes=len(data))


def everything(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def fetched(world: World) -> set[str]:
    return {request.path for request in world.sent(api.DownloadArtifactRequest)}


def test_the_merged_model_comes_without_the_adapter(client: Client, world: World, tmp_path: Path) -> None:
    give(world, MERGED, ADAPTER)
    assert everything(client.jobs.export("t1", tmp_path / "out")) == MERGED


def test_an_adapter_comes_with_its_tokenizer_and_without_its_base(
    client: Client, world: World, tmp_path: Path
) -> None:
    give(world, MERGED, ADAPTER)
    made = everything(client.jobs.get("t1").export(tmp_path / "out", Form.ADAPTER))
    # At the directory's root, where peft looks for them.
    assert made["adapter_model.safetensors"] == ADAPTER["adapter/adapter_model.safetensors"]
    assert set(made) == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert "model.safetensors" not in fetched(world)


def test_what_the_artifact_does_not_hold_is_not_exported(
    client: Client, world: World, tmp_path: Path
) -> None:
    give(world, MERGED)
    with pytest.raises(e.NotExportable, match="trained the whole model, no adapter"):
        client.jobs.export("t1", tmp_path / "out", Form.ADAPTER)
    del world.job.artifact.files[:]
    give(world, ADAPTER)
    with pytest.raises(e.NotExportable, match="made no whole model"):
        client.jobs.export("t1", tmp_path / "out")
    assert not fetched(world)


def test_a_job_without_an_artifact_has_nothing_to_export(client: Client, tmp_path: Path) -> None:
    with pytest.raises(e.WrongState, match="has no artifact"):
        client.jobs.export("t1", tmp_path / "out")


def test_a_gguf_file_is_made_here_and_is_all_that_is_left(
    client: Client, world: World, tmp_path: Path, converter: Path
) -> None:
    give(world, MERGED, ADAPTER)
    made = client.jobs.export("t1", tmp_path / "out", Form.GGUF, converter=converter, outtype="q8_0")
    assert made == tmp_path / "out" / "t1.gguf"
    assert everything(tmp_path / "out") == {"t1.gguf": b"GGUF q8_0" + MERGED["model.safetensors"]}


def test_a_converter_is_found_by_its_variable_and_on_the_path(
    client: Client, world: World, tmp_path: Path, converter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(world, MERGED)
    monkeypatch.setenv(CONVERTER_VARIABLE, str(converter))
    assert client.jobs.export("t1", tmp_path / "first", Form.GGUF).exists()
    monkeypatch.delenv(CONVERTER_VARIABLE)
    # As an installation makes it: with an interpreter of its own choice.
    converter.write_text(f"#!{sys.executable}\n{FAKE_CONVERTER}")
    converter.chmod(0o755)
    monkeypatch.setenv("PATH", str(converter.parent), prepend=os.pathsep)
    assert client.jobs.export("t1", tmp_path / "second", Form.GGUF).exists()


def test_a_missing_converter_is_told_before_anything_is_downloaded(
    client: Client, world: World, tmp_path: Path
) -> None:
    give(world, MERGED)
    with pytest.raises(e.NoConverter, match=r"github.com/ggml-org/llama.cpp.*WEIGHBRIDGE_GGUF_CONVERTER"):
        client.jobs.export("t1", tmp_path / "out", Form.GGUF)
    with pytest.raises(e.NoConverter, match=r"nowhere\.py is not here"):
        client.jobs.export("t1", tmp_path / "out", Form.GGUF, converter="nowhere.py")
    assert not fetched(world)


def test_a_model_that_the_converter_does_not_take_is_told_and_kept_for_another_try(
    client: Client, world: World, tmp_path: Path, converter: Path
) -> None:
    give(world, MERGED | {"config.json": b'{"architectures": ["ViTForImageClassification"]}'})
    for _ in range(2):
        with pytest.raises(e.ConversionFailed, match="ViTForImageClassification is not supported"):
            client.jobs.export("t1", tmp_path / "out", Form.GGUF, converter=converter)
    assert not (tmp_path / "out" / "t1.gguf").exists()
    assert len(world.sent(api.DownloadArtifactRequest)) == len(MERGED)


def command(gateway: FakeGateway, *arguments: object) -> Result:
    env = {"WEIGHBRIDGE_TARGET": gateway.target, "WEIGHBRIDGE_TOKEN": TOKEN}
    return CliRunner().invoke(app, ["jobs", "export", *map(str, arguments)], env=env)


def test_the_command_exports_each_form(
    gateway: FakeGateway, world: World, tmp_path: Path, converter: Path
) -> None:
    give(world, MERGED, ADAPTER)
    assert "the model of job t1 is in" in command(gateway, "t1", tmp_path / "model").stdout
    result = command(gateway, "t1", tmp_path / "adapter", "--adapter", "--json")
    assert json.loads(result.stdout) == {"form": "adapter", "path": str(tmp_path / "adapter")}
    result = command(gateway, "t1", tmp_path / "gguf", "--gguf", "--converter", converter)
    assert (result.exit_code, (tmp_path / "gguf" / "t1.gguf").exists()) == (Exit.OK, True)


def test_the_command_says_what_it_cannot_export(gateway: FakeGateway, world: World, tmp_path: Path) -> None:
    give(world, MERGED)
    assert command(gateway, "t1", tmp_path / "out", "--adapter").exit_code == Exit.CONFLICT
    result = command(gateway, "t1", tmp_path / "out", "--gguf")
    assert (result.exit_code, "llama.cpp" in result.stderr) == (Exit.USAGE, True)
    assert command(gateway, "t1", tmp_path / "out", "--merge", "--gguf").exit_code == Exit.USAGE
