"""The model card: what the artifact is, how good it is, how it was made, and how to use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from services.common.specs import ModelSource, ResolvedSpec
from services.trainer.work.report import Report

_MIB = 1 << 20
# More rows than that are in metrics.json only.
_LABEL_ROWS = 50
_VALUE_CHARACTERS = 200


def model_card(resolved: ResolvedSpec, report: Report, predicted_bytes: int, adapter: bool) -> str:
    """Return the card in Markdown, with the front matter that the hub reads."""
    parts = [
        _front_matter(resolved, adapter),
        f"# {_title(resolved)}\n",
        _summary(resolved, report, adapter),
        _usage(adapter),
        _results(report),
        "## Training\n\n![How training went](training_curve.png)\n",
        _settings(resolved),
        _memory(report, predicted_bytes),
        _provenance(resolved),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(resolved: ResolvedSpec, adapter: bool) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: image-classification",
        "tags:",
        "- weighbridge",
    ]
    if adapter:
        lines.append("- lora")
    if resolved.spec.model.hub:
        lines.append(f"base_model: {resolved.spec.model.hub}")
    return "\n".join([*lines, "---", ""])


def _title(resolved: ResolvedSpec) -> str:
    return f"{resolved.model.model_type} on {resolved.dataset.name.rpartition('/')[2]}"


def _summary(resolved: ResolvedSpec, report: Report, adapter: bool) -> str:
    how = "a LoRA adapter, merged into its base" if adapter else "every weight"
    accuracy = report.figures.get("accuracy")
    judged = (
        f"It is right on {accuracy:.1%} of {report.examples['held_out']} held-out images."
        if accuracy is not None
        else "Nothing was held out, so nothing is known about how good it is."
    )
    return (
        f"An image classifier of {len(report.labels)} labels, trained from {_source(resolved.spec.model)}: "
        f"{how}, {report.step} steps ({report.epoch:g} epochs), {report.examples['train']} images. {judged}\n"
    )


def _source(source: ModelSource) -> str:
    if source.hub:
        return f"`{source.hub}`"
    if source.job:
        return f"the artifact of `{source.job}`"
    return f"`{source.path}`" if source.path else "random weights"


def _usage(adapter: bool) -> str:
    beside = (
        "\nThe adapter alone stands in `adapter/`, for `peft.PeftModel.from_pretrained`.\n" if adapter else ""
    )
    return f"""## Use

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification
model, processor = (cls.from_pretrained(".") for cls in (AutoModelForImageClassification, AutoImageProcessor))
label = model.config.id2label[model(**processor(image, return_tensors="pt")).logits.argmax(-1).item()]
```
{beside}"""


def _results(report: Report) -> str:
    rows = report.by_label()
    if not rows:
        return ""
    table = _table(
        ("label", "precision", "recall", "F1", "images"),
        [
            (label, *(f"{row[name]:.3f}" for name in ("precision", "recall", "f1")), f"{row['support']:g}")
            for label, row in list(rows.items())[:_LABEL_ROWS]
        ],
    )
    more = (
        f"\n{len(rows) - _LABEL_ROWS} more labels are in `metrics.json`.\n" if len(rows) > _LABEL_ROWS else ""
    )
    judged = {name: value for name, value in report.figures.items() if name != "train_loss"}
    overall = ", ".join(f"{name} {value:.4f}" for name, value in judged.items())
    picture = "![What is taken for what](confusion_matrix.png)"
    return f"## Results\n\nOn held-out images: {overall}.\n\n{table}{more}\n{picture}\n"


def _settings(resolved: ResolvedSpec) -> str:
    spec = resolved.spec
    shown: dict[str, Any] = {"seed": spec.seed}
    for part in (spec.training, spec.lora, spec.evaluation, spec.image):
        shown |= {} if part is None else _given(vars(part))
    return _table(("setting", "value"), [(name, _plain(value)) for name, value in shown.items()])


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, (), "")}


def _plain(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= _VALUE_CHARACTERS else f"{text[:_VALUE_CHARACTERS]}…"


def _memory(report: Report, predicted_bytes: int) -> str:
    peaks = "; ".join(f"{peak.device} {peak.peak_bytes / _MIB:,.0f} MiB" for peak in report.peaks)
    return f"Memory: {predicted_bytes / _MIB:,.0f} MiB predicted; measured at most: {peaks}.\n"


def _provenance(resolved: ResolvedSpec) -> str:
    return (
        "## Provenance\n\n"
        f"Data: `{resolved.dataset.name}`, `{resolved.dataset.digest}`. The exact spec is in "
        "`resolved_spec.json`, libraries and hardware in `environment.json`, all figures in `metrics.json`.\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
