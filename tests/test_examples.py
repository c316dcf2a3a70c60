"""The spec files in examples/: each is one that the platform takes, and the docs know it."""

from pathlib import Path

import pytest

from services.common.spec_wire import spec_from_message
from services.common.validation import RequestValidator
from services.hardware.estimate.contradictions import refuse_contradictions
from weighbridge import spec_file

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_keeps_the_rules_of_its_contract(example: Path) -> None:
    # A placeholder for a reader's own job is no name of one.
    text = example.read_text().replace("{job: JOB}", "{job: t1}")
    message = spec_file.loads(text)
    RequestValidator().check(message)
    # Those that are refused on purpose fit nowhere; none contradicts itself.
    refuse_contradictions(spec_from_message(message))


def test_the_docs_name_every_example_of_a_language_model() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    named = [path for path in EXAMPLES if f"({Path('..') / 'examples' / path.name})" in page]
    text = [path for path in EXAMPLES if "task: image_classification" not in path.read_text()]
    assert {path.stem for path in text} - {path.stem for path in named} <= {"llama-8b-full"}
