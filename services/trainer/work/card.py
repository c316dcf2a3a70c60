"""The model card: what the artifact is, how good it is, how it was made, and how to use it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.common.specs import ModelSource, ResolvedSpec, Task
from services.trainer.work.data import RunData
from services.trainer.work.images.judging import Confusion
from services.trainer.work.report import Report
from services.trainer.work.usage import pipeline_tag, usage

_MIB = 1 << 20
# More rows than that are in metrics.json only.
_LABEL_ROWS = 50
_VALUE_CHARACTERS = 200


def model_card(
    resolved: ResolvedSpec, data: RunData, report: Report, predicted_bytes: int, adapter: bool
) -> str:
    """Return the card in Markdown, with the front matter that the hub reads."""
    config = json.loads(resolved.model.config_json)
    encodes = bool(config.get("is_encoder_decoder"))
    parts = [
        _front_matter(resolved, pipeline_tag(data, encodes), adapter),
        f"# {_title(resolved)}\n",
        _summary(resolved, config, report, adapter),
        usage(resolved, data, encodes, adapter),
        _results(report, resolved.spec.task),
        _tokens(data),
        "## Training\n\n![How training went](training_curve.png)\n",
        _settings(resolved),
        _memory(report, predicted_bytes),
        _provenance(resolved),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(resolved: ResolvedSpec, tag: str, adapter: bool) -> str:
    lines = ["---", "library_name: transformers", f"pipeline_tag: {tag}", "tags:", "- weighbridge"]
    if adapter:
        lines.append("- lora")
    if resolved.spec.task is not Task.IMAGE_CLASSIFICATION:
        lines.append(f"- {resolved.spec.task}")
    if resolved.spec.model.hub:
        lines.append(f"base_model: {resolved.spec.model.hub}")
    return "\n".join([*lines, "---", ""])


def _title(resolved: ResolvedSpec) -> str:
    return f"{resolved.model.model_type} on {resolved.dataset.name.rpartition('/')[2]}"


def _summary(resolved: ResolvedSpec, config: Mapping[str, Any], report: Report, adapter: bool) -> str:
    how = "a LoRA adapter, merged into its base" if adapter else "every weight"
    many = f"{report.examples['train']} {_unit(resolved)}"
    return (
        f"{_kind(resolved.spec.task, config)}, trained from {_source(resolved.spec.model)}: {how}, "
        f"{report.step} steps ({report.epoch:g} epochs), {many}. {_judged(report)}\n"
    )


def _kind(task: Task, config: Mapping[str, Any]) -> str:
    match task:
        case Task.IMAGE_CLASSIFICATION:
            return f"An image classifier of {len(config.get('id2label') or ())} labels"
        case Task.DPO:
            return "A language model that learned which of two answers is the better one"
        case _:
            return "A language model"


def _unit(resolved: ResolvedSpec) -> str:
    units = {Task.IMAGE_CLASSIFICATION: "images", Task.DPO: "pairs of answers"}
    return units.get(resolved.spec.task, "rows")


def _judged(report: Report) -> str:
    held_out, figures = report.examples["held_out"], report.figures
    if "accuracy" in figures:
        return f"It is right on {figures['accuracy']:.1%} of {held_out} held-out images."
    if "reward_accuracy" in figures:
        return f"It ranks {figures['reward_accuracy']:.1%} of {held_out} held-out pairs right."
    if "perplexity" in figures:
        return f"Its perplexity on {held_out} held-out rows is {figures['perplexity']:.4g}."
    return "Nothing was held out, so nothing is known about how good it is."


def _source(source: ModelSource) -> str:
    if source.hub:
        return f"`{source.hub}`"
    if source.job:
        return f"the artifact of `{source.job}`"
    given = source.path or source.gguf
    return f"`{given}`" if given else "random weights"


def _results(report: Report, task: Task) -> str:
    judged = {name: value for name, value in report.figures.items() if name != "train_loss"}
    if not judged:
        return ""
    overall = ", ".join(f"{name} {value:.4f}" for name, value in judged.items())
    of = "images" if task is Task.IMAGE_CLASSIFICATION else "rows"
    told = f"## Results\n\nOn held-out {of}: {overall}.\n"
    return told if report.confusion is None else f"{told}\n{_by_label(report.confusion)}"


def _by_label(confusion: Confusion) -> str:
    rows = confusion.by_label()
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
    return f"{table}{more}\n![What is taken for what](confusion_matrix.png)\n"


def _tokens(data: RunData) -> str:
    """Return what the rows were, in tokens; nothing for images."""
    facts = data.facts().get("tokens")
    if facts is None:
        return ""
    each, left_out = facts["tokens_per_row"], sum(facts["left_out"].values())
    rows = [
        ("rows", f"{facts['rows']:,}"),
        ("tokens", f"{facts['tokens']:,}, {facts['learned_tokens']:,} of them learned"),
        *((f"tokens a row, {name}", f"{value:,}") for name, value in each.items()),
        (f"cut at {facts['max_length']:,} tokens", f"{facts['cut_rows']:,} ({facts['cut_share']:.1%})"),
        ("left out", f"{left_out:,}"),
        ("copies of others", f"{facts['duplicates']:,}"),
    ]
    return f"## Data\n\n{_table(('what', 'how much'), rows)}"


def _settings(resolved: ResolvedSpec) -> str:
    spec = resolved.spec
    shown: dict[str, Any] = {"seed": spec.seed}
    for part in (
        spec.training,
        spec.text,
        spec.preference,
        spec.lora,
        spec.quantization,
        spec.evaluation,
        spec.image,
    ):
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
