"""What the libraries accept and get wrong without a word, by what a user would have lost."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import EvaluationOptions, Task, TextOptions, TrainingSpec
from services.trainer.work.errors import BadItem
from services.trainer.work.text.bytelevel import byte_tokenizer
from services.trainer.work.text.templates import chatml
from tests.trainer.text_specs import TINY
from tests.trainer.worker.text.opening import opened
from tests.trainer.worker.text.rows import LENGTH, rows_of, spec_of

pytestmark = pytest.mark.filterwarnings("ignore")

LONG = "a prompt that goes on " * 10


def asking(task: Task = Task.SFT, **text: Any) -> TrainingSpec:
    return spec_of(task, text=TextOptions(**{"max_length": LENGTH, **text}), evaluation=None)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def talk(*contents: str) -> dict[str, Any]:
    return {"messages": [turn(("user", "assistant")[at % 2], said) for at, said in enumerate(contents)]}


# Rows that vanish


def test_rows_whose_prompt_fills_the_length_are_counted_and_named_when_they_are_left_out() -> None:
    rows = [{"prompt": LONG if number % 2 else "short", "completion": f" {number}"} for number in range(14)]
    found = opened(rows)
    assert len(found.rows) == 7
    assert "7 of 14 rows are left out: the prompt alone fills max_length" in found.warned
    assert "(line 2, line 4, line 6, line 8, line 10 and 2 more)" in found.warned
    assert found.data.facts()["tokens"]["left_out"] == {"the prompt alone fills max_length": 7}


def test_data_whose_prompts_all_fill_the_length_fails_before_training_with_what_to_raise() -> None:
    with pytest.raises(
        InvalidSpec, match=r"text\.max_length is 96.*shortest row having 224 tokens: raise it"
    ):
        opened([{"prompt": LONG, "completion": " no"}] * 3)
    preferences = [{"prompt": LONG, "chosen": " yes", "rejected": " no"}]
    with pytest.raises(InvalidSpec, match=r"text\.max_length"):
        opened(preferences, asking(Task.DPO))


def test_pairs_of_equal_answers_are_left_out_not_trained_on_at_a_loss_that_never_moves() -> None:
    rows = [
        {"prompt": "which?", "chosen": " this", "rejected": " that"},
        {"prompt": "which?", "chosen": " same", "rejected": " same"},
    ]
    found = opened(rows, asking(Task.DPO))
    assert len(found.rows) == 1
    assert "both answers are the same within max_length (line 2)" in found.warned


def test_pairs_that_differ_only_behind_the_cut_are_left_out() -> None:
    rows = [{"prompt": "which?", "chosen": LONG + "yes", "rejected": LONG + "no"}]
    with pytest.raises(BadItem, match="both answers are the same"):
        opened(rows, asking(Task.DPO))


def test_tokens_of_long_rows_are_divided_among_packed_rows_and_none_is_lost() -> None:
    rows = [{"text": LONG}, {"text": "short"}]
    found = opened(rows, asking(packing=True))
    packed = [found.data.train[index] for index in range(found.data.sizes["packed"])]
    assert sum(len(row["input_ids"]) for row in packed) == len(LONG) + len("short") + 2
    assert all(len(row["input_ids"]) == sum(row["seq_lengths"]) <= LENGTH for row in packed)
    assert "divided" in found.told


# A loss of something else than was asked for


def test_completion_only_loss_on_text_is_refused_not_taken_of_everything() -> None:
    for shape in ("text", "messages"):
        with pytest.raises(InvalidSpec, match="completion_only_loss"):
            opened(rows_of(shape), asking(completion_only_loss=True))


def test_assistant_only_loss_on_rows_without_an_assistant_is_refused() -> None:
    for shape in ("text", "prompt_completion"):
        with pytest.raises(InvalidSpec, match="assistant_only_loss"):
            opened(rows_of(shape), asking(assistant_only_loss=True))


def test_loss_is_of_the_completion_alone_unless_the_spec_says_otherwise() -> None:
    row = {"prompt": "What is it?", "completion": " A cup."}
    assert opened([row]).learned(opened([row]).rows[0]) == " A cup.<|endoftext|>"
    whole = opened([row], asking(completion_only_loss=False))
    assert whole.learned(whole.rows[0]) == "What is it? A cup.<|endoftext|>"


def test_row_without_a_token_to_predict_is_left_out_not_trained_on_at_loss_zero() -> None:
    # The end token of an empty text has nothing before it that it could be predicted from.
    tokenizer = byte_tokenizer(300)
    with pytest.raises(BadItem, match="no token is left to learn from"):
        opened([{"text": str(tokenizer.eos_token)}])


MARKED = (
    "{% for m in messages %}{{ m.role + ': ' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + END }}{% endgeneration %}"
    "{% else %}{{ m.content + END }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@pytest.mark.parametrize("template", [MARKED, UNMARKED])
def test_assistant_only_loss_is_of_the_assistant_with_and_without_marks(template: str) -> None:
    rows = [talk("one?", "1", "two?", "2 é")]
    template = template.replace("END", "'<|im_end|>'")
    found = opened(rows, asking(assistant_only_loss=True, chat_template=template))
    said = found.learned(found.rows[0]).replace("\n", "")
    assert said == "1<|im_end|>2 é<|im_end|>"


def test_end_of_a_turn_is_learned_though_the_templates_marks_leave_it_out() -> None:
    template = MARKED.replace(
        "m.content + END }}{% endgeneration %}", "m.content }}{% endgeneration %}{{ END }}"
    )
    found = opened(
        [talk("one?", "1", "two?", "2")],
        asking(assistant_only_loss=True, chat_template=template.replace("END", "'<|im_end|>'")),
    )
    assert found.learned(found.rows[0]) == "1<|im_end|>2<|im_end|>"


def test_template_that_rewrites_earlier_turns_is_refused_with_the_row_and_a_way_out() -> None:
    forgetful = "{% for m in messages %}{{ m.role }}{% if loop.last %}{{ m.content }}{% endif %};{% endfor %}"
    with pytest.raises(BadItem, match=r"cannot be told apart: set text\.chat_template to `chatml`") as error:
        opened([talk("one?", "1", "two?", "2")], asking(assistant_only_loss=True, chat_template=forgetful))
    assert error.value.item == "line 1"


# Models that never stop


def test_end_of_a_text_is_learned_where_the_tokenizer_pads_with_its_end_token() -> None:
    from services.trainer.recipes.sft import build
    from tests.trainer.text_specs import tiny_config

    tokenizer = byte_tokenizer(300)
    tokenizer.pad_token = None
    found = opened([{"text": "long one"}, {"text": "short"}], tokenizer=tokenizer)
    assert "no padding token: <|endoftext|> pads too" in found.told
    trainer = build(asking(), tiny_config("llama"), tokenizer=found.data.tokenizer)
    batch = trainer.data_collator([dict(row) for row in found.rows])
    end = found.data.tokenizer.eos_token_id
    for tokens, labels, mask in zip(
        batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True
    ):
        length = int(mask.sum())
        assert tokens[length - 1] == labels[length - 1] == end
        assert torch.all(labels[length:] == -100)


def test_conversation_that_its_template_does_not_end_gets_an_end() -> None:
    endless = UNMARKED.replace("+ END", "")
    found = opened([talk("one?", "1")], asking(chat_template=endless))
    assert found.text(found.rows[0]["input_ids"]).endswith("<|endoftext|>")
    assert "ends 1 conversations with no token that could stop the model" in found.warned


def test_chatml_ends_turns_with_the_end_token_of_a_tokenizer_that_has_no_token_for_it() -> None:
    tokenizer = bare_tokenizer()
    tokenizer.chat_template = None
    found = opened([talk("one?", "1")], asking(chat_template="chatml"), tokenizer)
    assert found.text(found.rows[0]["input_ids"]).count("</s>") == 2
    assert "<|im_end|>" not in found.text(found.rows[0]["input_ids"])
    assert found.warned == ""


def bare_tokenizer() -> Any:
    """Return a tokenizer that has neither the tokens of ChatML nor padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")


# A context that the model never sees in use


def test_end_of_the_prompt_stays_in_the_context_where_it_would_merge_with_the_completion() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(
        models.BPE(vocab={"a": 0, ":": 1, " ": 2, "b": 3, " b": 4, "<e>": 5}, merges=[(" ", "b")])
    )
    made.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<e>", pad_token="<e>")
    found = opened([{"prompt": "a: ", "completion": "b"}], tokenizer=tokenizer)
    assert found.rows[0]["input_ids"] == [0, 1, 2, 3, 5]
    assert found.rows[0]["labels"] == [-100, -100, -100, 3, 5]
    assert "in 1 places the end of the prompt" in found.told


def test_prompt_that_the_template_asks_otherwise_than_it_records_keeps_what_the_model_sees_in_use() -> None:
    # As templates of thinking models do: the prompt for an answer opens with a thought left empty.
    template = UNMARKED.replace("'assistant: '", "'assistant: <think></think>'").replace(
        "END", "'<|im_end|>'"
    )
    row = {"prompt": [turn("user", "one?")], "completion": [turn("assistant", "1")]}
    found = opened([row], asking(chat_template=template))
    assert found.text(found.rows[0]["input_ids"]).endswith("assistant: <think></think>1<|im_end|>\n")
    assert found.learned(found.rows[0]).strip() == "1<|im_end|>"


def test_roles_of_sharegpt_do_not_end_up_in_the_text() -> None:
    said = [{"from": "human", "value": "one?"}, {"from": "gpt", "value": "1"}]
    found = opened([{"conversations": said}])
    text = found.text(found.rows[0]["input_ids"])
    assert text == "<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\n1<|im_end|>\n"


def test_content_in_parts_is_joined_not_trained_on_as_python_prints_it() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": " two?"}]
    found = opened([{"messages": [{"role": "user", "content": parts}, turn("assistant", "12")]}])
    assert "{" not in found.text(found.rows[0]["input_ids"])
    picture = [{"type": "image", "image": "x"}]
    with pytest.raises(BadItem) as error:
        opened([{"messages": [{"role": "user", "content": picture}, turn("assistant", "12")]}])
    assert error.value.item.startswith("line 1")


def test_chosen_that_repeats_its_prompt_does_not_train_on_the_prompt_twice() -> None:
    asked = [turn("user", "which?")]
    row = {
        "prompt": asked,
        "chosen": [*asked, turn("assistant", "this")],
        "rejected": [*asked, turn("assistant", "that")],
    }
    found = opened([row], asking(Task.DPO))
    assert found.text(found.rows[0]["chosen_ids"]) == "this<|im_end|>\n"


def test_tools_that_chatml_has_no_place_for_are_refused_not_left_out() -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "sea"}}}
    row = {"messages": [turn("user", "one?"), {"role": "assistant", "content": "", "tool_calls": [call]}]}
    with pytest.raises(BadItem, match="ChatML has no place for tools"):
        opened([row])


# Failures in the middle of a training


def test_conversations_without_a_chat_template_are_refused_with_one_that_works() -> None:
    with pytest.raises(InvalidSpec, match=r"text\.chat_template is absent.*`chatml`"):
        opened([talk("one?", "1")], tokenizer=bare_tokenizer())


def test_row_that_the_chat_template_refuses_is_named() -> None:
    picky = (
        "{% for m in messages %}{% if m.content == 'bad' %}{{ raise_exception('no such thing') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    with pytest.raises(BadItem, match="refuses it: no such thing") as error:
        opened([talk("one?", "1"), talk("bad", "1")], asking(chat_template=picky))
    assert error.value.item == "line 2"


def test_template_that_is_none_is_refused_before_the_rows_are_read() -> None:
    with pytest.raises(InvalidSpec, match=r"text\.chat_template.*no Jinja template: line 1"):
        opened(rows_of("messages"), asking(chat_template="{% for m in %}"))


def test_tokenizer_of_another_model_is_found_out_before_the_embedding_fails() -> None:
    tokenizer = byte_tokenizer(300)
    tokenizer.add_tokens(["sea"])
    config = {"model_type": "llama", **TINY["llama"], "vocab_size": 260}
    with pytest.raises(InvalidModel, match=r"gives 'sea' in line 2 the number 260.*260 rows"):
        opened([{"text": "a cup"}, {"text": "the sea"}], tokenizer=tokenizer, config=config)


def test_padding_that_the_embedding_has_no_row_for_is_replaced() -> None:
    tokenizer = byte_tokenizer(300)
    tokenizer.add_special_tokens({"pad_token": "<|new pad|>"})
    config = {"model_type": "llama", **TINY["llama"], "vocab_size": 260}
    found = opened([{"text": "a cup"}], tokenizer=tokenizer, config=config)
    assert found.data.tokenizer.pad_token == "<|endoftext|>"


def test_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = byte_tokenizer(300)
    tokenizer.eos_token = None
    with pytest.raises(InvalidModel, match="no end token"):
        opened([{"text": "a cup"}], tokenizer=tokenizer)


def test_random_model_whose_vocabulary_holds_no_bytes_is_told_the_number_it_needs() -> None:
    config = {"model_type": "llama", **TINY["llama"], "vocab_size": 259}
    with pytest.raises(InvalidSpec, match="needs at least 260"):
        opened([{"text": "a cup"}], config=config)


def test_length_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(InvalidSpec, match=r"text\.max_length is 129.*128 positions"):
        opened([{"text": "a cup"}], asking(max_length=129))


def test_rows_that_the_task_cannot_learn_from_are_refused_with_the_task_that_can() -> None:
    with pytest.raises(InvalidSpec, match="dpo learns: use that"):
        opened(rows_of("preference"))
    with pytest.raises(InvalidSpec, match="use sft"):
        opened(rows_of("text"), asking(Task.DPO))


def test_columns_that_nothing_is_made_of_are_refused() -> None:
    with pytest.raises(BadItem) as error:
        opened([{"question": "one?", "answer": "1"}])
    assert "prompt" in error.value.detail


# What is told


def test_copies_and_cut_rows_are_counted() -> None:
    found = opened([{"text": LONG}, {"text": "a cup"}, {"text": "a cup"}])
    assert "3 rows" in found.told
    assert "1 (33.3%) are cut at 96" in found.told
    assert "1 are copies of others" in found.told


def test_held_out_rows_that_cannot_be_used_leave_nothing_to_evaluate_and_say_so() -> None:
    rows = [{"prompt": LONG, "completion": " no"}, {"prompt": "a", "completion": " b"}]
    evaluation = EvaluationOptions(validation_split=0.5)
    seeds = (opened_with(rows, evaluation, seed) for seed in range(20))
    found = next(found for found in seeds if found is not None)
    assert found.data.held_out is None
    assert "nothing is evaluated" in found.warned


def opened_with(rows: list[dict[str, Any]], evaluation: EvaluationOptions, seed: int) -> Any:
    try:
        return opened(rows, replace(asking(), evaluation=evaluation, seed=seed))
    except InvalidSpec:
        return None


# Models with an encoder


def test_encoder_gets_prompts_that_end_and_the_decoder_completions_that_end() -> None:
    config = {"model_type": "switch_transformers", **TINY["switch_transformers"]}
    found = opened(
        [{"prompt": "one?", "completion": "1"}, {"prompt": LONG, "completion": "2"}], config=config
    )
    first, second = found.rows
    assert found.text(first["input_ids"]) == "one?<|endoftext|>"
    assert found.text(first["labels"]) == "1<|endoftext|>"
    assert len(second["input_ids"]) == len(second["attention_mask"]) == LENGTH
    assert second["input_ids"][-1] == found.data.tokenizer.eos_token_id
    with pytest.raises(InvalidSpec, match="has an encoder"):
        opened(rows_of("text"), config=config)


def test_chatml_is_the_same_text_as_the_tokenizers_that_made_it_known() -> None:
    tokenizer = byte_tokenizer(300)
    tokenizer.chat_template = chatml(tokenizer)
    text = tokenizer.apply_chat_template(
        [turn("system", "be"), turn("user", "hi")], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
