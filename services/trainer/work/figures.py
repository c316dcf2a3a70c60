"""The two pictures of an artifact: how training went, and what is taken for what."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

from services.trainer.work.measures import Measures

_TRAIN, _HELD_OUT, _INK, _GRID = "#8fa3b8", "#c4502f", "#26323d", "#e3e8ec"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_DPI = 150
# More labels than that, and numbers in the cells can no longer be read.
_NUMBERED_LABELS = 25


def draw_training_curve(
    path: Path, history: Sequence[Mapping[str, float]], measures: Measures, kept_step: int | None
) -> None:
    """Draw losses, and shares where they are measured; mark the step that is kept, if it is not the last."""
    with pyplot.rc_context(_STYLE):
        shares = {
            key: name for key, name in measures.shares.items() if any(key in entry for entry in history)
        }
        figure, axes = pyplot.subplots(1, 2 if shares else 1, figsize=(9.6 if shares else 5.2, 3.6))
        loss_axes, *others = np.atleast_1d(axes)
        _line(loss_axes, history, "loss", "training", _TRAIN)
        _line(loss_axes, history, "eval_loss", "held out", _HELD_OUT)
        _finish(loss_axes, "Loss", kept_step)
        for share_axes in others:
            for (key, name), color in zip(shares.items(), (_HELD_OUT, _TRAIN), strict=False):
                _line(share_axes, history, key, name, color, percent=True)
            share_axes.yaxis.set_major_formatter("{x:.0f} %")
            _finish(share_axes, measures.title, kept_step)
        _save(figure, path)


def draw_confusion_matrix(path: Path, labels: Sequence[str], counts: np.ndarray) -> None:
    """Draw counts of shape (labels, labels), each row coloured by its own share."""
    with pyplot.rc_context({**_STYLE, "axes.spines.left": False, "axes.spines.bottom": False}):
        side = min(18.0, max(3.6, 1.6 + 0.46 * len(labels)))
        figure, axes = pyplot.subplots(figsize=(side + 0.6, side))
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        _name_rows_and_columns(axes, labels)
        if len(labels) <= _NUMBERED_LABELS:
            _number_cells(axes, counts, shares)
        bar = figure.colorbar(
            image, ax=axes, fraction=0.046, pad=0.04, format=lambda x, _: f"{100 * x:.0f} %"
        )
        bar.outline.set_visible(False)
        right = 100 * float(np.trace(counts)) / max(1, int(counts.sum()))
        axes.set_title(f"{right:.1f} % of {int(counts.sum())} held-out images", loc="left", pad=12)
        _save(figure, path)


def _line(
    axes: Axes, history: Sequence[Mapping[str, float]], key: str, name: str, color: str, percent: bool = False
) -> None:
    points = [(entry["step"], entry[key] * (100 if percent else 1)) for entry in history if key in entry]
    if points:
        # Evaluations are few and far between: a line alone would hide where they were.
        marker = "o" if key.startswith("eval") and len(points) <= 60 else None
        axes.plot(
            *zip(*points, strict=True), color=color, label=name, linewidth=1.8, marker=marker, markersize=3
        )


def _finish(axes: Axes, title: str, kept_step: int | None) -> None:
    if kept_step is not None:
        axes.axvline(kept_step, color=_INK, linewidth=0.8, linestyle=":", label=f"kept: step {kept_step}")
    axes.set_title(title, loc="left")
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)


def _name_rows_and_columns(axes: Axes, labels: Sequence[str]) -> None:
    size = 10 if len(labels) <= _NUMBERED_LABELS else 6
    shown = [label if len(label) <= 20 else f"{label[:19]}…" for label in labels]
    upright = 0 if max(map(len, shown), default=0) <= 3 else 60
    axes.set_xticks(range(len(labels)), shown, rotation=upright, fontsize=size)
    axes.set_yticks(range(len(labels)), shown, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")


def _number_cells(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if shares[row, column] > 0.5 else _INK
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI)
    pyplot.close(figure)
