"""What jobs on text are refused before anything is reserved, and what they get where nothing is said."""

from dataclasses import replace
from typing import Any

import pytest

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import (
    DatasetSummary,
    DeviceKind,
    EvaluationOptions,
    LoraOptions,
    ModelSource,
    Optimizer,
    PlacementOptions,
    Precision,
    PreferenceOptions,
    QuantizationMethod,
    QuantizationOptions,
    ResolvedSpec,
    RowShape,
    ShardingStrategy,
    Task,
    TextOptions,
    TextStatistics,
    TrainingOptions,
    TrainingSpec,
)
from services.hardware.estimate.resolve import resolve
from services.hardware.estimate.rules.vocabulary import BYTE_TOKENS
from services.hardware.estimate.sources.reading import Places
from services.trainer.work.measures import measures_of
from services.trainer.work.text.bytelevel import VOCABULARY
from tests.hardware.estimate.models import (
    TINY_LLAMA,
    TINY_MAMBA,
    TINY_MIXTRAL,
    TINY_SWITCH,
    TINY_T5,
    write_model,
)
from tests.hardware.estimate.test_gguf import CHAT
from tests.hardware.samples import placed, training_spec

STATISTICS = TextStatistics(min_characters=1, median_characters=10, p95_characters=20, max_characters=30)
PLAIN = replace(CHAT, row_shape=RowShape.TEXT, text=STATISTICS)
PAIRS = replace(CHAT, row_shape=RowShape.PROMPT_COMPLETION, text=STATISTICS)
ASKED = replace(PAIRS, text=replace(STATISTICS, conversational=True))
PREFERRED = replace(CHAT, row_shape=RowShape.PREFERENCE, text=STATISTICS)
NF4 = QuantizationOptions(method=QuantizationMethod.NF4)
INT8 = QuantizationOptions(method=QuantizationMethod.INT8)
CPU = placed(DeviceKind.CPU)


def sft(config: dict[str, Any] | None = None, **fields: Any) -> TrainingSpec:
    model = ModelSource(config=config or TINY_LLAMA)
    return training_spec(**{"task": Task.SFT, "model": model, "dataset": CHAT.name, **fields})


def dpo(**fields: Any) -> TrainingSpec:
    return sft(task=Task.DPO, **fields)


def on(*modules: str) -> LoraOptions:
    return LoraOptions(target_modules=modules)


def compiled(**placement: Any) -> dict[str, Any]:
    options = PlacementOptions(device=DeviceKind.CUDA, **placement)
    return {"training": TrainingOptions(torch_compile=True), "placement": options}


def resolved(places: Places, spec: TrainingSpec, rows: DatasetSummary | None = None) -> ResolvedSpec:
    return resolve(spec, rows or (PREFERRED if spec.task is Task.DPO else PLAIN), None, "default", places)[0]


def warnings(places: Places, spec: TrainingSpec, rows: DatasetSummary = PLAIN) -> str:
    return "\n".join(resolve(spec, rows, None, "default", places)[1])


STREAMED: dict[str, Any] = {"quantization": NF4, "lora": on("q_proj")}
FSDP = PlacementOptions(device_count=2, sharding=ShardingStrategy.FSDP)
OFFLOADED = PlacementOptions(expert_offload=True)
PACKED = TextOptions(packing=True)
TINY_BLOOM = {"model_type": "bloom", "n_layer": 1, "hidden_size": 32, "n_head": 4}
BAD_TEMPLATE = TextOptions(chat_template="{% for message in messages %}")


@pytest.mark.parametrize(
    ("spec", "rows", "field", "remedy"),
    [
        # Rows that are not the task's.
        (dpo(), PLAIN, "dataset", "plain text, and dpo compares prompt, chosen and rejected: use sft"),
        (dpo(), CHAT, "dataset", "use sft"),
        (sft(), PREFERRED, "dataset", "sft learns text, messages, or prompt and completion: use dpo"),
        (sft(TINY_T5), PLAIN, "dataset", "give it prompt and completion"),
        (sft(TINY_T5), CHAT, "dataset", "give it prompt and completion"),
        # Parts of rows that are not there: trl would train on everything, or fail in the middle.
        (
            sft(text=TextOptions(completion_only_loss=True)),
            PLAIN,
            "text.completion_only_loss",
            "leave it out, or give it prompt",
        ),
        (
            sft(text=TextOptions(completion_only_loss=True)),
            CHAT,
            "text.completion_only_loss",
            "set assistant_only_loss",
        ),
        (
            sft(text=TextOptions(assistant_only_loss=True)),
            PLAIN,
            "text.assistant_only_loss",
            "give it messages",
        ),
        (
            sft(text=TextOptions(assistant_only_loss=True)),
            PAIRS,
            "text.assistant_only_loss",
            "set completion_only_loss",
        ),
        (
            sft(text=TextOptions(dataset_text_field="body")),
            CHAT,
            "text.dataset_text_field",
            "not text in a column: leave it out",
        ),
        (sft(text=BAD_TEMPLATE), CHAT, "text.chat_template", "set it to chatml"),
        # What a comparison of two answers has no place for.
        (dpo(text=PACKED), None, "text.packing", "lower max_length"),
        (dpo(text=TextOptions(neftune_noise_alpha=5.0)), None, "text.neftune_noise_alpha", "use sft"),
        (dpo(text=TextOptions(assistant_only_loss=True)), None, "text.assistant_only_loss", "answers only"),
        (dpo(text=TextOptions(completion_only_loss=True)), None, "text.completion_only_loss", "answers only"),
        (
            dpo(preference=PreferenceOptions(label_smoothing=0.1)),
            None,
            "preference.label_smoothing",
            "sigmoid would pass over it: use loss_type robust",
        ),
        (
            dpo(preference=PreferenceOptions(precompute_ref_log_probs=True), lora=LoraOptions()),
            None,
            "preference.precompute_ref_log_probs",
            "leave it out",
        ),
        # What an encoder takes none of.
        (sft(TINY_T5, text=PACKED), PAIRS, "text.packing", "has an encoder"),
        (
            sft(TINY_T5, text=TextOptions(assistant_only_loss=True)),
            ASKED,
            "text.assistant_only_loss",
            "has an encoder",
        ),
        (
            sft(TINY_T5, text=TextOptions(completion_only_loss=False)),
            PAIRS,
            "text.completion_only_loss",
            "leave it out",
        ),
        (
            sft(TINY_SWITCH, placement=OFFLOADED, quantization=NF4, lora=LoraOptions()),
            PAIRS,
            "placement.expert_offload",
            "has an encoder",
        ),
        (
            sft(TINY_T5, evaluation=EvaluationOptions(metric_for_best_model="token_accuracy")),
            PAIRS,
            "evaluation.metric_for_best_model",
            "use loss",
        ),
        # What architectures cannot do.
        (sft(TINY_MAMBA, text=PACKED), None, "text.packing", "leave it out"),
        (sft(TINY_BLOOM, text=PACKED), None, "text.packing", "see each other in bloom"),
        (sft(text=TextOptions(max_length=4096)), None, "text.max_length", "2048 positions"),
        (sft({**TINY_LLAMA, "vocab_size": 100}), None, "model.config.vocab_size", "reads bytes, with 260"),
        (
            sft({"model_type": "bert", "is_decoder": True, "num_hidden_layers": 1}),
            None,
            "model",
            "a part of its head",
        ),
        (sft(TINY_MAMBA, lora=on("dt_proj")), None, "lora.target_modules", "in_proj"),
        (sft(TINY_MAMBA, lora=on("out_proj")), None, "lora.target_modules", "in_proj"),
        (sft(TINY_MAMBA, **compiled()), None, "training.torch_compile", "leave it out"),
        # What an adapter cannot be on.
        (sft(lora=on("lm_head")), None, "lora.target_modules", "modules_to_save"),
        (
            sft(TINY_MIXTRAL, lora=LoraOptions(target_parameters=("experts.down_proj",), use_dora=True)),
            None,
            "lora.use_dora",
            "plain LoRA",
        ),
        (
            sft(TINY_MIXTRAL, lora=LoraOptions(target_parameters=("experts.down_proj",), lora_dropout=0.1)),
            None,
            "lora.lora_dropout",
            "set it to 0",
        ),
        (sft(quantization=NF4), None, "quantization", "add lora"),
        (sft(quantization=INT8, lora=LoraOptions(use_dora=True)), None, "lora.use_dora", "use nf4"),
        # What a CPU has not.
        (sft(placement=CPU, precision=Precision.FP16), None, "precision", "fp32 or bf16"),
        (
            sft(placement=replace(CPU, activation_offload=True)),
            None,
            "placement.activation_offload",
            "in host memory already",
        ),
        (
            sft(TINY_MIXTRAL, placement=replace(CPU, expert_offload=True), **STREAMED),
            None,
            "placement.expert_offload",
            "in host memory already",
        ),
        (
            sft(placement=replace(CPU, sharding=ShardingStrategy.FSDP)),
            None,
            "placement.sharding",
            "use cuda",
        ),
        (
            sft(placement=CPU, training=TrainingOptions(use_liger_kernel=True)),
            None,
            "training.use_liger_kernel",
            "use cuda",
        ),
        # What does not go together.
        (sft(placement=FSDP, quantization=NF4, lora=LoraOptions()), None, "placement.sharding", "use ddp"),
        (sft(placement=replace(FSDP, device_count=1)), None, "placement.sharding", "nothing to divide"),
        (dpo(placement=FSDP), None, "placement.sharding", "add lora"),
        (
            sft(TINY_MIXTRAL, placement=OFFLOADED, lora=LoraOptions()),
            None,
            "placement.expert_offload",
            "quantization.method to nf4",
        ),
        (
            sft(TINY_MIXTRAL, placement=OFFLOADED, quantization=INT8, lora=LoraOptions()),
            None,
            "placement.expert_offload",
            "quantization.method to nf4",
        ),
        (sft(placement=OFFLOADED, **STREAMED), None, "placement.expert_offload", "no mixture"),
        (
            sft(TINY_MIXTRAL, placement=PlacementOptions(expert_offload=True, device_count=2), **STREAMED),
            None,
            "placement.expert_offload",
            "device_count to 1",
        ),
        (sft(quantization=NF4, lora=LoraOptions(), **compiled()), None, "training.torch_compile", "leave"),
        (sft(**compiled(activation_offload=True)), None, "training.torch_compile", "leave"),
        (
            sft({"model_type": "gpt2", "n_layer": 1}, training=TrainingOptions(use_liger_kernel=True)),
            None,
            "training.use_liger_kernel",
            "no kernels for gpt2",
        ),
        (
            sft(evaluation=EvaluationOptions(metric_for_best_model="accuracy")),
            None,
            "evaluation.metric_for_best_model",
            "did you mean token_accuracy",
        ),
    ],
)
def test_a_job_that_would_learn_something_else_is_refused(
    places: Places, spec: TrainingSpec, rows: DatasetSummary | None, field: str, remedy: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolved(places, spec, rows)
    assert caught.value.field == field
    assert remedy in str(caught.value.limit)


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (sft(text=PACKED), PLAIN),
        (sft(text=TextOptions(assistant_only_loss=True)), CHAT),
        (sft(text=TextOptions(assistant_only_loss=True)), ASKED),
        (sft(text=TextOptions(completion_only_loss=True)), PAIRS),
        (sft(TINY_T5), PAIRS),
        (sft(TINY_SWITCH, quantization=NF4, lora=LoraOptions(target_modules=("q", "v"))), PAIRS),
        (sft(TINY_MAMBA, lora=LoraOptions()), PLAIN),
        (sft(TINY_MIXTRAL, placement=OFFLOADED, **STREAMED), PLAIN),
        (sft(TINY_MIXTRAL, lora=LoraOptions(target_parameters=("experts.down_proj",))), PLAIN),
        (sft(placement=PlacementOptions(activation_offload=True)), PLAIN),
        (dpo(preference=PreferenceOptions(loss_type=("robust",), label_smoothing=0.1)), PREFERRED),
        (dpo(lora=LoraOptions(use_dora=True, lora_dropout=0.1), quantization=NF4), PREFERRED),
    ],
)
def test_what_goes_together_resolves_to_itself(
    places: Places, spec: TrainingSpec, rows: DatasetSummary
) -> None:
    once = resolved(places, spec, rows)
    assert resolved(places, once.spec, rows) == once


def test_a_model_with_an_encoder_learns_by_sft(places: Places) -> None:
    found = resolved(places, sft(TINY_SWITCH), PAIRS)
    assert '"SwitchTransformersForConditionalGeneration"' in found.model.config_json
    with pytest.raises(InvalidModel, match="use sft"):
        resolved(places, dpo(model=ModelSource(config=TINY_SWITCH)))


def test_sequences_are_no_longer_than_the_model_has_positions(places: Places) -> None:
    def length(config: dict[str, Any]) -> int | None:
        text = resolved(places, sft(config)).spec.text
        return None if text is None else text.max_length

    assert length({**TINY_LLAMA, "max_position_embeddings": 256}) == 256
    assert length(TINY_LLAMA) == length(TINY_MAMBA) == 1024


def test_the_loss_is_of_the_completion_where_there_is_one(places: Places) -> None:
    def completion_only(rows: DatasetSummary) -> bool | None:
        text = resolved(places, sft(), rows).spec.text
        return None if text is None else text.completion_only_loss

    assert [completion_only(rows) for rows in (PAIRS, PLAIN, CHAT)] == [True, False, False]
    # Without data nobody knows.
    open_spec, _ = resolve(sft(), None, None, "default", places)
    assert open_spec.spec.text is not None
    assert open_spec.spec.text.completion_only_loss is None


def test_a_reference_is_computed_beforehand_unless_an_adapter_or_the_spec_makes_it_needless(
    places: Places,
) -> None:
    def chosen(**fields: Any) -> bool | None:
        preference = resolved(places, dpo(**fields)).spec.preference
        return None if preference is None else preference.precompute_ref_log_probs

    assert chosen() is True
    assert chosen(lora=LoraOptions()) is False
    assert chosen(preference=PreferenceOptions(precompute_ref_log_probs=False)) is False
    assert "for half the memory" in warnings(places, dpo(), PREFERRED)


def test_label_smoothing_says_what_it_brings_back(places: Places) -> None:
    smoothed = TrainingOptions(label_smoothing_factor=0.1)
    assert "every token's logits" in warnings(places, sft(training=smoothed))
    assert "logits" not in warnings(places, sft())


def test_what_will_be_slow_or_of_no_use_is_said(places: Places) -> None:
    assert "19 s a step" in warnings(places, sft(TINY_MAMBA))
    paged = TrainingOptions(optim=Optimizer.PAGED_ADAMW_8BIT)
    assert "paged_adamw_8bit saves memory on a GPU" in warnings(places, sft(training=paged, placement=CPU))
    repeated = replace(PLAIN, text=replace(STATISTICS, duplicate_count=7))
    assert "7 of the data set's rows repeat" in warnings(places, sft(), repeated)


def tokenizer_files(**files: bytes) -> dict[str, bytes]:
    return {"model_safetensors": b"weights", **files}


def test_a_conversation_without_a_template_is_offered_one(places: Places) -> None:
    write_model(places.model_root / "m", TINY_LLAMA, **tokenizer_files(tokenizer_json=b"{}"))
    spec = sft(model=ModelSource(path="m"))
    with pytest.raises(InvalidSpec, match="set it to chatml"):
        resolved(places, spec, CHAT)
    with pytest.raises(InvalidSpec, match="set it to chatml"):
        resolved(places, spec, ASKED)
    assert resolved(places, spec, PLAIN)
    assert resolved(places, replace(spec, text=TextOptions(chat_template="chatml")), CHAT)
    (places.model_root / "m" / "chat_template.jinja").write_text("{{ messages }}")
    assert resolved(places, spec, CHAT).model.chat_template == "{{ messages }}"


def test_a_template_that_marks_the_assistant_is_readable(places: Places) -> None:
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert resolved(places, sft(text=TextOptions(chat_template=marked)), CHAT)


def test_a_model_without_a_tokenizer_reads_no_text(places: Places) -> None:
    write_model(places.model_root / "m", TINY_LLAMA)
    with pytest.raises(InvalidModel, match=r"put tokenizer\.json"):
        resolved(places, sft(model=ModelSource(path="m")))


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_another_models(places: Places) -> None:
    vocabulary = b'{"model": {"vocab": {"a": 0, "b": 298}}, "added_tokens": [{"id": 299}]}'
    write_model(places.model_root / "m", TINY_LLAMA, **tokenizer_files(tokenizer_json=vocabulary))
    spec = sft(model=ModelSource(path="m"))
    assert resolved(places, spec)
    added = b'{"added_tokens_decoder": {"300": {"content": "<x>"}}}'
    (places.model_root / "m" / "tokenizer_config.json").write_bytes(added)
    with pytest.raises(InvalidModel, match="301 tokens and the model rows for 300"):
        resolved(places, spec)


def test_the_worker_knows_the_same_tokens_and_metrics() -> None:
    from services.hardware.estimate.rules import evaluation

    assert BYTE_TOKENS == VOCABULARY
    assert all(measures_of(task).names == names for task, names in evaluation._METRICS.items())
