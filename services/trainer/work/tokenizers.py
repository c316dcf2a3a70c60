"""The tokenizer of a run: found where the model is, and made ready for training."""

from pathlib import Path

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import TextOptions
from services.trainer.work.errors import FetchFailed
from services.trainer.work.events import EventWriter
from services.trainer.work.inputs import RunInputs
from services.trainer.work.text.bytelevel import byte_tokenizer
from services.trainer.work.text.templates import CHATML_NAME, chatml
from services.trainer.work.weights import gguf_file, model_folder


def read_tokenizer(
    inputs: RunInputs, config: PreTrainedConfig, events: EventWriter
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the run's model, with padding, an end, and the template that the spec wants.

    What is remarkable about it is told as notices.

    Raises:
        FetchFailed: its files cannot be had, or are not those that were resolved.
        InvalidModel: there is none, or it has no token that ends a text.
        InvalidSpec: the spec's chat template cannot be read, or the model has too few rows for the tokenizer.
    """
    rows = embedding_rows(config)
    if inputs.resolved.spec.model.config is not None:
        tokenizer: PreTrainedTokenizerBase = byte_tokenizer(rows)
        tokenizer.chat_template = chatml(tokenizer)
    else:
        tokenizer = _read(inputs)
    for notice in _make_ready(tokenizer, inputs.resolved.model.model_type, rows):
        events.notice(notice)
    _set_template(tokenizer, inputs.resolved.spec.text or TextOptions())
    return tokenizer


def embedding_rows(config: PreTrainedConfig) -> int:
    """Return how many tokens a model knows."""
    return int(config.get_text_config().vocab_size)


def _read(inputs: RunInputs) -> PreTrainedTokenizerBase:
    source = inputs.resolved.spec.model
    if source.job is not None and inputs.base_model is None:
        raise FetchFailed(source.job, "the service laid no artifact ready")
    if source.gguf is not None:
        file = gguf_file(inputs)
        return _from(file.parent, source.gguf, gguf_file=file.name)
    folder = inputs.base_model or model_folder(inputs, inputs.resolved.model.processor_files)
    return _from(folder, str(source.hub or source.path or source.job))


def _from(folder: Path, name: str, **options: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **options
        )
    # Whatever is missing or broken, each kind of tokenizer says it in its own way.
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        detail = f"no tokenizer can be read from its files: {told}"
        raise InvalidModel(model=name, detail=detail) from error
    return tokenizer


def _make_ready(tokenizer: PreTrainedTokenizerBase, name: str, rows: int) -> list[str]:
    if tokenizer.eos_token_id is None:
        detail = (
            "its tokenizer has no end token (eos_token), so nothing it writes would ever end: add one to it"
        )
        raise InvalidModel(model=name, detail=detail)
    if tokenizer.eos_token_id >= rows:
        detail = f"its tokenizer's end token is number {tokenizer.eos_token_id}, and its embedding has {rows}"
        raise InvalidModel(model=name, detail=detail)
    # Padding that the embedding has no row for fails in the model even where no loss is taken of it.
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id < rows:
        return []
    tokenizer.pad_token = tokenizer.eos_token
    return [
        f"the tokenizer has no padding token: {tokenizer.eos_token} pads too. What is padding is told by "
        "each batch's mask, so that the ends of texts are still learned"
    ]


def _set_template(tokenizer: PreTrainedTokenizerBase, options: TextOptions) -> None:
    wanted = options.chat_template
    if wanted:
        tokenizer.chat_template = chatml(tokenizer) if wanted == CHATML_NAME else wanted
    template = tokenizer.chat_template
    if isinstance(template, dict):
        # Several by name: what is saved and used later must be the one that was trained with.
        template = tokenizer.chat_template = template.get("default") or next(iter(template.values()))
    if template:
        _check_template(tokenizer)


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except TemplateSyntaxError as error:
        limit = f"it is no Jinja template: line {error.lineno}: {error.message}"
        raise InvalidSpec("text.chat_template", "unreadable", limit) from error
    except (TemplateError, TypeError):
        # It wants another conversation; which row it refuses is told when it does.
        return
