"""Whether a model and its tokenizer belong together."""

from services.common.errors import InvalidModel, InvalidSpec
from services.common.specs import TrainingSpec
from services.hardware.estimate.architecture import Architecture
from services.hardware.estimate.sources.source import Source

BYTE_TOKENS = 260
"""The tokens of the tokenizer that a model of random weights gets: bytes, padding, an end, and turns."""


def refuse_other_vocabulary(spec: TrainingSpec, source: Source, architecture: Architecture) -> None:
    """Pass a language model that has a tokenizer, and a row for each of its tokens.

    A token without a row fails in the model's first layer, when everything has been loaded.

    Raises:
        InvalidSpec: a model of random weights has too few rows.
        InvalidModel: there is no tokenizer, or it is another model's.
    """
    rows = int(architecture.config.get_text_config().vocab_size)
    if spec.model.config is not None:
        if rows < BYTE_TOKENS:
            limit = (
                f"a model of random weights reads bytes, with {BYTE_TOKENS} tokens in all: use at least that"
            )
            raise InvalidSpec("model.config.vocab_size", rows, limit)
        return
    if not source.processor.tokenizes:
        detail = "it has no tokenizer: put tokenizer.json, or the files of a slow one, beside config.json"
        raise InvalidModel(source.name, detail)
    if source.processor.token_count > rows:
        detail = (
            f"its tokenizer has {source.processor.token_count} tokens and the model rows for {rows}: "
            "give it the tokenizer that it was trained with"
        )
        raise InvalidModel(source.name, detail)
