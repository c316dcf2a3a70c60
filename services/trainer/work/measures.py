"""The figures by which each task's training is judged, under the names that people and specs use."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from services.common.specs import Task

# The libraries' names for the same.
_RENAMED = {
    "mean_token_accuracy": "token_accuracy",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
}
_LOWER_IS_BETTER = frozenset({"loss", "perplexity"})


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What an evaluation of one task tells."""

    names: tuple[str, ...]
    """The figures; the first says which weights are best, where a spec does not choose."""
    title: str
    """What the shares among them say, for a picture."""
    shares: Mapping[str, str]
    """Figures between 0 and 1 by the library's name, each with its own in words."""

    def read(self, metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
        """Return the figures among what a Trainer reports, whose names begin with `prefix`."""
        plain = {name.removeprefix(prefix): float(value) for name, value in metrics.items()}
        named = {_RENAMED.get(name, name): value for name, value in plain.items()}
        if "perplexity" in self.names and "loss" in named:
            # Past this, a float holds no more; it is as good as infinite.
            named["perplexity"] = math.exp(min(named["loss"], 700.0))
        return {name: named[name] for name in self.names if name in named}


def measures_of(task: Task) -> Measures:
    """Return a task's measures."""
    return _MEASURES[task]


def gain(name: str, value: float, best: float) -> float:
    """Return by how much a figure is better than another."""
    return best - value if name in _LOWER_IS_BETTER else value - best


_MEASURES = {
    Task.IMAGE_CLASSIFICATION: Measures(
        names=("accuracy", "macro_f1", "loss"),
        title="On held-out images",
        shares={"eval_accuracy": "accuracy", "eval_macro_f1": "mean F1"},
    ),
    Task.SFT: Measures(
        names=("loss", "perplexity", "token_accuracy"),
        title="Tokens guessed right",
        shares={"eval_mean_token_accuracy": "held out", "mean_token_accuracy": "training"},
    ),
    Task.DPO: Measures(
        names=("loss", "reward_accuracy", "reward_margin"),
        title="Pairs ranked right",
        shares={"eval_rewards/accuracies": "held out", "rewards/accuracies": "training"},
    ),
}
