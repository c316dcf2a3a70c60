"""Artifacts of language models, tiny and initialised at random, as a job would leave them."""

import json
from pathlib import Path
from typing import Any

from services.common.spec_wire import serialize_resolved
from services.common.specs import (
    DatasetFormat,
    DatasetSummary,
    DeviceKind,
    ModelSource,
    PlacementOptions,
    ResolvedModel,
    ResolvedSpec,
    Task,
    TextOptions,
    TrainingSpec,
)

TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SHAPE = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def write_artifact(directory: Path, template: str = TEMPLATE, **shape: Any) -> dict[str, Any]:
    """Write a whole Llama with a byte-level tokenizer, and return its configuration."""
    # Imported here: most tests of the trainer need none of it.
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**{**SHAPE, "eos_token_id": 256, "bos_token_id": None, **shape})
    model = LlamaForCausalLM(config)
    # Never the end by chance: an answer is as long as it may be.
    model.generation_config.suppress_tokens = [256]
    model.save_pretrained(directory)
    write_tokenizer(directory, template)
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def write_tokenizer(directory: Path, template: str = TEMPLATE) -> None:
    """Write a tokenizer that has a token for each byte, and one for the end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[])
    tokenizer = Tokenizer(bytes_alone)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    wrapped.chat_template = template or None
    wrapped.save_pretrained(directory)


def resolved_job(config: dict[str, Any], task: Task = Task.SFT, **fields: Any) -> ResolvedSpec:
    """Return what a job that trained such a model was resolved to."""
    spec = TrainingSpec(
        task=task,
        model=ModelSource(config={"model_type": config["model_type"]}),
        dataset="projects/default/datasets/talk",
        placement=PlacementOptions(device=DeviceKind.CPU),
        **fields,
    )
    dataset = DatasetSummary(
        name=spec.dataset,
        digest=f"sha256:{'0' * 64}",
        size_bytes=1,
        format=DatasetFormat.JSONL,
        example_count=1,
    )
    model = ResolvedModel(
        config_json=json.dumps(config), model_type=config["model_type"], parameter_count=50_000
    )
    return ResolvedSpec(spec=spec, model=model, dataset=dataset, resolver_version="test")


def chat_spec(digest: str, context_tokens: int = 256) -> bytes:
    """Return the bytes that an estimator would have answered for a chat with an artifact."""
    job = resolved_job({"model_type": "llama"}, text=TextOptions(max_length=context_tokens))
    model = ResolvedModel(config_json="{}", model_type="llama", artifact_digest=digest)
    return serialize_resolved(
        ResolvedSpec(spec=job.spec, model=model, dataset=job.dataset, resolver_version="t")
    )
