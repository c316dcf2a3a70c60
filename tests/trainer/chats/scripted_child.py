"""Stands in for the child of a chat, without a model: what it says is what it is told.

`die`, `refuse`, `use N` (bytes), `hang` (until it is stopped); anything else it repeats, word by word.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any


def tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def turn_end(reason: str, words: int) -> None:
    tell(
        turn_end={
            "finish_reason": reason,
            "prompt_tokens": 1,
            "completion_tokens": words,
            "tokens_per_second": 10.0,
            "first_token_s": 0.1,
        }
    )


def answer(said: str, directory: Path) -> None:
    match said.split():
        case ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["refuse"]:
            failure = {
                "reason": "PROMPT_TOO_LONG",
                "message": "too long",
                "metadata": {"limit": "3", "actual": "4"},
            }
            tell(refusal=failure)
        case ["use", size]:
            used = [{"device": "host", "used_bytes": int(size), "peak_bytes": int(size)}]
            (directory / "usage.json").write_text(json.dumps(used))
            turn_end("stop", 0)
        case ["hang"]:
            tell(text="hanging ")
            while "stop" not in json.loads(sys.stdin.readline() or '{"stop": true}'):
                continue
            turn_end("cancelled", 1)
        case words:
            for word in words:
                tell(text=f"{word} ")
            turn_end("stop", len(words))


def main() -> None:
    directory = Path(sys.argv[1])
    opening = json.loads(sys.stdin.readline())
    artifact = Path(opening["artifact_dir"])
    if not (artifact / "config.json").exists():
        tell(error={"reason": "INVALID_MODEL", "message": "no language model", "metadata": {}})
        sys.exit(1)
    tell(ready={"context_tokens": opening["context_tokens"], "notices": [json.dumps(opening)]})
    for line in sys.stdin:
        request = json.loads(line)
        if "message" in request:
            answer(request["message"], directory)


if __name__ == "__main__":
    main()
