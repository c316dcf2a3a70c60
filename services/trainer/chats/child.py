"""The process of one conversation: `python -m services.trainer.chats.child DIRECTORY`, the trainer's child.

It reads lines of JSON: first what to load (`artifact_dir`, `context_tokens`, `device`, `reserved`, `options`,
`system_prompt`), then `{"message": …}` and `{"stop": true}`. It writes lines of JSON, each with one key:
`ready`, `text`, `turn_end`, `refusal` (no answer to this message) or, at last, `error`. Into its directory it
writes what it uses. It holds no credential, is held to what was reserved, and never outlives its service.
"""

import ctypes
import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from services.common.chat import GenerationOptions
from services.common.errors import InvalidRequest, ServiceError
from services.common.failures import Failure, failure_of
from services.trainer.chats.requests import Requests, Said
from services.trainer.work.memory import HOST, MemoryWatch, cap_data, lift_cap

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_MIB = 1 << 20
Tell = Callable[..., None]


def main(directory: Path) -> int:
    """Talk until the input ends; return the process's exit status."""
    _set_up_process()
    answers = _private_stdout()

    def tell(**answer: Any) -> None:
        # One write a line: the watch's thread may have something to say too.
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()

    requests = Requests(sys.stdin.buffer)
    watch = _watch(directory, requests.opening["reserved"], tell)
    try:
        _talk(requests, watch, tell)
    except ServiceError as error:
        tell(error=asdict(failure_of(error)))
        return 1
    except (MemoryError, OSError, RuntimeError) as error:
        from services.trainer.work.failures import asked_for_bytes, is_out_of_memory

        if not is_out_of_memory(error):
            raise
        # Saying why takes memory too.
        lift_cap()
        watch.sample()
        log.exception("memory ran out")
        # The GPU is watched last; its allocator names itself.
        peak = watch.peaks()[-1] if "CUDA" in str(error) else watch.peaks()[0]
        reserved = requests.opening["reserved"]
        tell(error=_overrun(peak.device, reserved, peak.peak_bytes + asked_for_bytes(error)))
        return 1
    return 0


def _set_up_process() -> None:
    # The kernel ends it with its service: nothing goes on computing for nobody.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Ctrl-C reaches the whole terminal; this process ends when its service says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Threads that wait for work spin a little and then sleep: jobs on the same cores need them too.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    warnings.simplefilter("ignore")


def _private_stdout() -> BinaryIO:
    """Return the pipe to the service; whatever a library prints goes to the log instead."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _watch(directory: Path, reserved: Mapping[str, int], tell: Tell) -> MemoryWatch:
    def overrun(used_bytes: int) -> None:
        tell(error=_overrun(HOST, reserved, used_bytes))
        os._exit(1)

    watch = MemoryWatch(directory / "usage.json", reserved.get(HOST), overrun)
    watch.start()
    return watch


def _overrun(device: str, reserved: Mapping[str, int], actual_bytes: int) -> dict[str, Any]:
    limit_bytes = reserved.get(device, 0)
    message = (
        f"the chat needed {actual_bytes / _MIB:,.0f} MiB on {device}, with {limit_bytes / _MIB:,.0f} MiB "
        "reserved: begin again with a shorter context"
    )
    metadata = {
        "device": device,
        "predicted_bytes": str(limit_bytes),
        "limit_bytes": str(limit_bytes),
        "actual_bytes": str(actual_bytes),
    }
    return asdict(Failure(reason="MEMORY_OVERRUN", message=message, metadata=metadata))


def _talk(requests: Requests, watch: MemoryWatch, tell: Tell) -> None:
    # Imported here: `main` first sets what the libraries read when they are imported.
    import torch
    from transformers.utils import logging as transformers_logging

    from services.trainer.chats.conversation import Conversation, read_tokenizer
    from services.trainer.chats.model import LanguageModel
    from services.trainer.work.environment import usable_cores

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    opening = requests.opening
    artifact, context = Path(opening["artifact_dir"]), opening["context_tokens"]
    torch.set_num_threads(usable_cores())
    _hold_to(opening["reserved"], watch)
    tokenizer = read_tokenizer(artifact)
    conversation = Conversation(tokenizer, opening["system_prompt"], context)
    model = LanguageModel.load(artifact, tokenizer, opening["device"])
    options = GenerationOptions(**opening["options"])
    tell(ready={"context_tokens": context, "notices": conversation.notices})

    def answer(said: Said) -> None:
        prompt = conversation.prompt(said.text)
        text, end = model.answer(
            prompt,
            context - prompt.shape[-1],
            options,
            lambda piece: tell(text=piece),
            lambda: requests.is_stopped(said),
        )
        conversation.remember(said.text, text)
        tell(turn_end=asdict(end))

    for said in requests.messages():
        try:
            answer(said)
        except ServiceError as error:
            # Said to the model for nothing; the conversation stands as before.
            tell(refusal=_refusal(error))


def _refusal(error: ServiceError) -> dict[str, Any]:
    found = asdict(failure_of(error))
    if isinstance(error, InvalidRequest):
        found["metadata"] = dict(error.violations)
    return found


def _hold_to(reserved: Mapping[str, int], watch: MemoryWatch) -> None:
    """Let allocations fail past what is reserved, on the host and on a GPU."""
    import torch

    if HOST in reserved:
        cap_data(reserved[HOST])
    gpu = next((device for device in reserved if device not in (HOST, "disk")), None)
    if gpu is not None:
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, reserved[gpu] / total_bytes))
        watch.watch_gpu(gpu, torch.cuda.memory_reserved)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
