"""Language models that come from a directory, a GGUF file or a hub, with their tokenizers."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from services.common.specs import (
    ModelSource,
    QuantizationMethod,
    QuantizationOptions,
    Task,
    TextOptions,
    TrainingSpec,
    WeightFile,
)
from services.trainer.runs.directory import RunDirectory
from services.trainer.work.text.bytelevel import byte_tokenizer
from services.trainer.work.text.templates import chatml
from tests.trainer.text_specs import TINY, lora_for
from tests.trainer.worker.rundirs import events, outcome, write_run
from tests.trainer.worker.test_base_models import fake_hub
from tests.trainer.worker.text.rows import LEARNING, LENGTH, resolved_text, rows_of, spec_of, write_rows
from tests.trainer.worker.warm import Warm

pytestmark = pytest.mark.filterwarnings("ignore")

SHORT = replace(LEARNING, num_train_epochs=None, max_steps=3)
LORA = lora_for("llama", lora_alpha=64.0)
FAMILIES = ("llama", "mixtral", "mamba")


def make_model(folder: Path, family: str, **config: Any) -> Path:
    """Write a model of random weights with a tokenizer of its own, as a hub has it."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    set_seed(3)
    tokenizer = byte_tokenizer(300)
    tokenizer.chat_template = chatml(tokenizer)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **TINY[family], **config)).save_pretrained(
        folder
    )
    tokenizer.save_pretrained(str(folder))
    return folder


def files(folder: Path, names: Sequence[str]) -> tuple[WeightFile, ...]:
    """Return files of a directory as the resolver pins them."""
    found = {name: (folder / name).read_bytes() for name in names}
    return tuple(
        WeightFile(path=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        for name, content in found.items()
    )


def run_on(
    workers: Warm, path: Path, folder: Path, spec: TrainingSpec, shape: str = "messages"
) -> RunDirectory:
    """Train on the model in `folder`, which stands alone under the node's model root."""
    data = write_rows(path.with_suffix(".jsonl"), rows_of(shape))
    spec = replace(spec, model=ModelSource(path=folder.name))
    job = resolved_text(
        spec,
        data,
        json.loads((folder / "config.json").read_text()),
        location=folder.name,
        weight_files=files(folder, ["model.safetensors"]),
        processor_files=files(folder, ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]),
    )
    return workers.run(write_run(path, job, data, model_root=folder.parent))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(torch.arange(3, 60)[None]).logits
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_of_a_model_of_the_node_is_merged_and_stands_beside(
    workers: Warm, tmp_path: Path, family: str
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "models" / "own", family)
    spec = spec_of(training=SHORT, lora=lora_for(family, lora_alpha=64.0))
    run = run_on(workers, tmp_path / "run", folder, spec)
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    merged = AutoModelForCausalLM.from_pretrained(run.artifact)
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, str(run.artifact / "adapter"))
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-4)
    assert not torch.allclose(logits(merged), before, atol=1e-2)


EXPERTS = lora_for("mixtral", target_parameters=("experts.gate_up_proj", "experts.down_proj"))
ADAPTED = {"llama": ("llama", LORA), "mixtral": ("mixtral", LORA), "experts": ("mixtral", EXPERTS)}


@pytest.mark.parametrize("kind", ADAPTED)
@pytest.mark.parametrize("method", [QuantizationMethod.NF4, QuantizationMethod.INT8])
def test_adapter_learned_on_quantised_weights_is_merged_into_the_whole_ones(
    workers: Warm, tmp_path: Path, kind: str, method: QuantizationMethod
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    family, lora = ADAPTED[kind]
    folder = make_model(tmp_path / "models" / "own", family, tie_word_embeddings=family == "llama")
    quantization = QuantizationOptions(method=method, bnb_4bit_use_double_quant=True)
    if method is QuantizationMethod.INT8:
        quantization = QuantizationOptions(method=method)
    spec = spec_of(training=SHORT, lora=lora, quantization=quantization)
    run = run_on(workers, tmp_path / "run", folder, spec)
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    config = json.loads((run.artifact / "config.json").read_text())
    assert "quantization_config" not in config
    merged = AutoModelForCausalLM.from_pretrained(run.artifact)
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = logits(base)
    adapted = PeftModel.from_pretrained(base, str(run.artifact / "adapter"))
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-4)
    assert not torch.allclose(logits(merged), before, atol=1e-2)


def test_quantised_training_of_a_random_model_is_merged_into_the_weights_that_the_seed_drew(
    workers: Warm, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    data = write_rows(tmp_path / "rows.jsonl", rows_of("text"))
    nf4 = QuantizationOptions(method=QuantizationMethod.NF4, bnb_4bit_use_double_quant=True)
    spec = spec_of(training=SHORT, lora=LORA, quantization=nf4)
    run = workers.run(write_run(tmp_path / "run", resolved_text(spec, data), data))
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    set_seed(7)
    base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run.artifact))
    adapted = PeftModel.from_pretrained(base, str(run.artifact / "adapter"))
    merged = AutoModelForCausalLM.from_pretrained(run.artifact)
    assert torch.allclose(logits(merged), logits(adapted), atol=1e-4)


def test_quantised_run_resumes_bitwise(workers: Warm, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "models" / "own", "llama")
    nf4 = QuantizationOptions(method=QuantizationMethod.NF4, bnb_4bit_use_double_quant=True)
    spec = spec_of(lora=replace(LORA, lora_dropout=0.1), quantization=nf4)
    whole = run_on(workers, tmp_path / "whole", folder, spec)
    assert outcome(whole)["state"] == "succeeded", whole.log_file.read_text()
    start = whole.local_checkpoints()[6]
    data, job = tmp_path / "whole.jsonl", whole.spec()
    resumed = workers.run(
        write_run(tmp_path / "resumed", job, data, start_from=start, model_root=folder.parent)
    )
    # Evaluated in between: on a CPU that repacks 4-bit weights for it, gradients would be wrong afterwards.
    assert weights(resumed) == weights(whole)


def weights(run: RunDirectory) -> bytes:
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    return (run.artifact / "model.safetensors").read_bytes()


def test_tokenizer_that_is_another_than_the_resolved_one_is_refused(workers: Warm, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "models" / "own", "llama")
    data = write_rows(tmp_path / "rows.jsonl", rows_of("text"))
    job = resolved_text(
        spec_of(training=SHORT, model=ModelSource(path="own")),
        data,
        json.loads((folder / "config.json").read_text()),
        location="own",
        weight_files=files(folder, ["model.safetensors"]),
        processor_files=files(folder, ["tokenizer.json", "tokenizer_config.json"]),
    )
    (folder / "tokenizer_config.json").write_text("{}")
    run = workers.run(write_run(tmp_path / "run", job, data, model_root=folder.parent))
    assert outcome(run)["failure"]["reason"] == "FETCH_FAILED"
    assert outcome(run)["failure"]["metadata"]["item"] == "tokenizer_config.json"


def test_model_without_a_tokenizer_says_so(workers: Warm, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "models" / "own", "llama")
    for path in (*folder.glob("tokenizer*"), folder / "chat_template.jinja"):
        path.unlink()
    data = write_rows(tmp_path / "rows.jsonl", rows_of("text"))
    job = resolved_text(
        spec_of(training=SHORT, model=ModelSource(path="own")),
        data,
        json.loads((folder / "config.json").read_text()),
        location="own",
    )
    run = workers.run(write_run(tmp_path / "run", job, data, model_root=folder.parent))
    assert outcome(run)["failure"]["reason"] == "INVALID_MODEL"
    assert "no tokenizer can be read" in outcome(run)["failure"]["message"]


def test_switch_learns_completions_and_its_artifact_writes_them(workers: Warm, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    config = {"model_type": "switch_transformers", **TINY["switch_transformers"], "is_encoder_decoder": True}
    data = write_rows(tmp_path / "rows.jsonl", rows_of("prompt_completion"))
    spec = spec_of(training=replace(LEARNING, num_train_epochs=8.0))
    run = workers.run(write_run(tmp_path / "run", resolved_text(spec, data, config), data))
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    losses = [event["loss"] for event in events(run, "progress")]
    assert losses[-1] < 0.8 * losses[0]
    assert outcome(run)["metrics"]["perplexity"] > 1
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(run.artifact)
    tokenizer = AutoTokenizer.from_pretrained(run.artifact)
    written = model.generate(**tokenizer("colour of sea?", return_tensors="pt"), max_new_tokens=4)
    assert written.shape[1] > 1
    assert "AutoModelForSeq2SeqLM" in (run.artifact / "README.md").read_text()


def test_full_training_of_a_mixture_of_experts_keeps_its_experts(workers: Warm, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path / "models" / "own", "mixtral")
    run = run_on(workers, tmp_path / "run", folder, spec_of(training=SHORT))
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    before, after = (
        dict(AutoModelForCausalLM.from_pretrained(path).named_parameters()) for path in (folder, run.artifact)
    )
    name = "model.layers.1.mlp.experts.down_proj"
    assert not torch.equal(before[name], after[name])
    assert torch.allclose(before[name], after[name], atol=0.2)


def write_gguf(folder: Path, path: Path) -> None:
    """Write a Llama in folder as a GGUF file in 32 bit, with a tokenizer of bytes."""
    import gguf
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    tokens = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokens["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokens["added_tokens"]}
    names = sorted([*vocabulary.items(), *special.items()], key=lambda item: item[1])
    # The format wants at least one merge, and that its result is a token.
    names.append(("ĠĠ", len(names)))
    unused = [f"<unused{number}>" for number in range(len(names), config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([name for name, _ in names] + unused)
    writer.add_token_types([3 if name in special else 1 for name, _ in names] + [3] * len(unused))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(special["<|im_end|>"])
    writer.add_pad_token_id(special["<|pad|>"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    heads = config["num_attention_heads"]
    for name, tensor in load_file(folder / "model.safetensors").items():
        values = tensor.numpy()
        if "q_proj" in name or "k_proj" in name:
            # llama.cpp turns the halves of each head into pairs.
            shape = (heads, 2, values.shape[0] // heads // 2, values.shape[1])
            values = values.reshape(shape).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(_in_gguf(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
}


def _in_gguf(name: str) -> str:
    for theirs, ours in _GGUF_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def test_gguf_file_is_trained_and_its_artifact_is_plain(workers: Warm, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_model(tmp_path / "source", "llama")
    root = tmp_path / "models"
    root.mkdir()
    write_gguf(folder, root / "small.gguf")
    data = write_rows(tmp_path / "rows.jsonl", rows_of("messages"))
    # So small a step that the weights stay where they came from.
    training = replace(SHORT, learning_rate=1e-12, weight_decay=0.0)
    spec = spec_of(training=training, model=ModelSource(gguf="small.gguf"), lora=LORA)
    pinned = files(root, ["small.gguf"])
    job = resolved_text(
        spec,
        data,
        json.loads((folder / "config.json").read_text()),
        location="small.gguf",
        weight_files=pinned,
        processor_files=pinned,
    )
    run = workers.run(write_run(tmp_path / "run", job, data, model_root=root))
    assert outcome(run)["state"] == "succeeded", run.log_file.read_text()
    model, source = (AutoModelForCausalLM.from_pretrained(path) for path in (run.artifact, folder))
    assert torch.allclose(logits(model), logits(source), atol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(run.artifact)
    assert tokenizer.chat_template
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id


READ = """
import json, sys
from pathlib import Path
from transformers import AutoConfig
from services.trainer.work.data import open_data
from services.trainer.work.events import EventWriter
from services.trainer.work.inputs import read_inputs
from services.trainer.work.tokenizers import read_tokenizer
from services.trainer.runs.directory import RunDirectory
directory = RunDirectory(Path(sys.argv[1]))
inputs = read_inputs(directory)
config = AutoConfig.for_model("llama", vocab_size=300)
tokenizer = read_tokenizer(inputs, config, EventWriter(directory.events_file))
print(json.dumps(tokenizer("sea")["input_ids"]))
"""


def test_tokenizer_of_a_hub_is_fetched_at_its_commit(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "hub", "llama")
    data = write_rows(tmp_path / "rows.jsonl", rows_of("text"))
    job = resolved_text(
        spec_of(model=ModelSource(hub="someone/llama"), text=TextOptions(max_length=LENGTH)),
        data,
        json.loads((folder / "config.json").read_text()),
        revision="c0ffee",
        processor_files=files(folder, ["tokenizer.json", "tokenizer_config.json"]),
    )
    run = write_run(tmp_path / "run", job, data)
    with fake_hub("someone/llama", folder) as endpoint:
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", READ, str(run.path)],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, **env, "HF_HUB_OFFLINE": "0"},
        )
    assert json.loads(done.stdout) == byte_tokenizer(300)("sea")["input_ids"]
    assert events(run, "phase") == []


def test_preferences_follow_instructions_and_the_second_reference_is_the_first_jobs_result(
    workers: Warm, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "models" / "own", "llama")
    first = run_on(workers, tmp_path / "first", folder, spec_of())
    data = write_rows(tmp_path / "pairs.jsonl", rows_of("preference"))
    spec = spec_of(Task.DPO, model=ModelSource(job="projects/default/trainingJobs/first"), training=SHORT)
    job = resolved_text(spec, data, json.loads((first.artifact / "config.json").read_text()))
    second = workers.run(write_run(tmp_path / "second", job, data, base_model=first.artifact))
    assert outcome(second)["state"] == "succeeded", second.log_file.read_text()
    # Were the reference anything else than what the first job left, it would begin elsewhere.
    assert events(second, "progress")[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
