"""Chat templates: how a conversation becomes text."""

from transformers import PreTrainedTokenizerBase

from services.trainer.work.text.bytelevel import TURN_END, TURN_START

CHATML_NAME = "chatml"
"""The word that a spec says for ChatML instead of a template."""

# The turn's end is within the marks: a model that never learns to end its turn goes on for ever.
_CHATML = (
    "{%- for message in messages -%}"
    # Left out without a word, a call would be a turn that says nothing.
    "{%- if tools or message['tool_calls'] -%}"
    "{{- raise_exception('ChatML has no place for tools: give a template that has as text.chat_template') -}}"
    "{%- endif -%}"
    "{{- START + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + END -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] + END -}}"
    "{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- START + 'assistant\\n' -}}{%- endif -%}"
)


def chatml(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return ChatML for a tokenizer, the assistant's turns marked for `assistant_only_loss`.

    A tokenizer without the token that ends a turn there ends turns with its own end token: a model that
    writes the letters of `<|im_end|>` would never stop.
    """
    end = TURN_END if TURN_END in tokenizer.get_vocab() else str(tokenizer.eos_token)
    return _CHATML.replace("START", repr(TURN_START)).replace("END", repr(end))


def marks_assistant(template: str) -> bool:
    """Say whether a template marks what the assistant says, with `{% generation %}`."""
    return "generation %}" in template or "generation -%}" in template
