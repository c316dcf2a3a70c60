"""A tokenizer for models that begin with random weights: each byte is a token."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from services.common.errors import InvalidSpec

PAD, EOS = "<|pad|>", "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

VOCABULARY = 256 + 4
"""Its tokens: every byte, padding, the end of a text, and the beginning and end of a turn."""


def byte_tokenizer(embedding_rows: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer, for a model whose embedding has that many rows.

    Raises:
        InvalidSpec: the embedding is too small for it.
    """
    if embedding_rows < VOCABULARY:
        limit = f"a model of random weights gets a tokenizer of bytes, which needs at least {VOCABULARY}"
        raise InvalidSpec("model.config.vocab_size", embedding_rows, limit)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={sign: index for index, sign in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        additional_special_tokens=[TURN_START, TURN_END],
    )
