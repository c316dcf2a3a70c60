"""A language model that writes answers: transformers' own generation, told about token by token."""

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
    set_seed,
)

from services.common.chat import FinishReason, GenerationOptions, TurnEnd
from services.common.errors import InvalidModel

_MAX_NEW_TOKENS = 512
_TEMPERATURE, _TOP_P = 0.7, 0.95


class LanguageModel:
    """An artifact's model on the device that it computes on."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: str) -> None:
        self._model: Any = model.eval().to(device)
        self._tokenizer = tokenizer
        self._device = device
        self._ends = _end_tokens(self._model.generation_config, tokenizer)

    @classmethod
    def load(cls, artifact: Path, tokenizer: PreTrainedTokenizerBase, device: str) -> "LanguageModel":
        """Read an artifact, in the number format that it is stored in.

        Raises:
            InvalidModel: it is no language model.
        """
        try:
            config = AutoConfig.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
            kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            # Safetensors only: a pickle would run what it says.
            model = kind.from_pretrained(
                artifact,
                config=config,
                dtype="auto",
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, KeyError) as error:
            detail = f"it cannot be loaded as a language model: {error}"
            raise InvalidModel("the artifact", detail.replace(str(artifact), "the artifact")) from error
        return cls(model, tokenizer, device)

    def answer(
        self,
        prompt: torch.Tensor,
        room: int,
        options: GenerationOptions,
        tell: Callable[[str], None],
        stopped: Callable[[], bool],
    ) -> tuple[str, TurnEnd]:
        """Write an answer to a prompt (1 x n tokens) of at most `room` tokens; return it whole, and its end.

        `tell` gets each piece as soon as it is certain; once `stopped` says so, the answer ends there.
        """
        if options.seed is not None:
            set_seed(options.seed)
        prompt = prompt.to(self._device)
        streamer = _Telling(self._tokenizer, tell)
        output: torch.Tensor = self._model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=self._generation(room, options),
            streamer=streamer,
            stopping_criteria=StoppingCriteriaList([_Asked(stopped)]),
        )
        # An encoder reads the prompt; then the decoder begins with a token of its own.
        begins = 1 if self._model.config.is_encoder_decoder else prompt.shape[-1]
        written = output[0, begins:].tolist()
        text = self._tokenizer.decode(written, skip_special_tokens=True)
        return str(text), TurnEnd(
            finish_reason=self._reason(written, stopped()),
            prompt_tokens=prompt.shape[-1],
            completion_tokens=len(written),
            tokens_per_second=streamer.tokens_per_second(),
            first_token_s=streamer.first_token_s(),
        )

    def _generation(self, room: int, options: GenerationOptions) -> Any:
        # What the model's authors advise beyond these stays.
        config: Any = copy.deepcopy(self._model.generation_config)
        temperature = _TEMPERATURE if options.temperature is None else options.temperature
        config.max_length = None
        config.max_new_tokens = min(options.max_new_tokens or _MAX_NEW_TOKENS, room)
        config.eos_token_id = self._ends or None
        # One sequence needs no padding; without an id, transformers remarks on it each time.
        config.pad_token_id = (
            next(iter(self._ends), 0) if config.pad_token_id is None else config.pad_token_id
        )
        config.do_sample = temperature > 0
        config.temperature = temperature if temperature > 0 else 1.0
        config.top_p = (_TOP_P if options.top_p is None else options.top_p) if temperature > 0 else 1.0
        config.num_beams = 1
        return config

    def _reason(self, written: list[int], stopped: bool) -> FinishReason:
        if written and written[-1] in self._ends:
            return FinishReason.STOP
        return FinishReason.CANCELLED if stopped else FinishReason.LENGTH


class _Telling(TextStreamer):
    """Passes text on as soon as no later token can change it, and keeps the time."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._tell = tell
        self._begin_s = time.monotonic()
        self._times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        if not self.next_tokens_are_prompt:
            self._times.append(time.monotonic())
        super().put(value)  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._tell(text)

    def first_token_s(self) -> float:
        return self._times[0] - self._begin_s if self._times else 0.0

    def tokens_per_second(self) -> float:
        # The first one's time is the prompt's.
        lasted_s = self._times[-1] - self._times[0] if self._times else 0.0
        return (len(self._times) - 1) / lasted_s if lasted_s > 0 else 0.0


class _Asked(StoppingCriteria):
    """Ends generation when somebody asks for it."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._stopped(), dtype=torch.bool, device=input_ids.device)


def _end_tokens(config: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that end an answer: those of the model's settings, and the tokenizer's own."""
    configured = config.eos_token_id
    several = configured if isinstance(configured, list) else [configured]
    return sorted({int(token) for token in (*several, tokenizer.eos_token_id) if token is not None})
