"""What a language model answers before it is trained: `python -m demo.before FILE.gguf QUESTION…`.

Prints a JSON string a line. There is no job yet that `weighbridge chat` could talk to, so this is plain
transformers.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

MOST_TOKENS = 48
"""Of an answer."""


def main() -> None:
    """Answer the questions of the command line."""
    # A local file needs no network, and a look for one costs time; bars would stand among the answers.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    parser = argparse.ArgumentParser(prog="python -m demo.before", description=__doc__)
    parser.add_argument("file", type=Path, help="A GGUF file with a chat template.")
    parser.add_argument("questions", nargs="+")
    arguments = parser.parse_args()
    for answer in answers(arguments.file, arguments.questions):
        print(json.dumps(answer), flush=True)


def answers(file: Path, questions: list[str]) -> list[str]:
    """Return a GGUF model's likeliest answers, each of at most `MOST_TOKENS` tokens."""
    # Seconds, which a question about the command line need not take.
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import set_verbosity_error

    set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    return [_answer(model, tokenizer, question) for question in questions]


def _answer(model: Any, tokenizer: Any, question: str) -> str:
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
    text: str = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


if __name__ == "__main__":
    main()
