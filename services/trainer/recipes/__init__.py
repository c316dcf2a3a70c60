"""Recipes: how each task is trained, composed of one function per axis.

A recipe builds a Trainer from a spec and a model's config, and from weights where it gets some; it reads
no data, disk or network while it builds. The worker gives it data and trains; the estimator gives it fake
tensors and weighs.

Importing this package loads no torch: `recipe_for` does.
"""

from importlib import import_module

from services.common.errors import NotAvailable
from services.common.specs import Task
from services.trainer.recipes.recipe import Hardware, Recipe, TensorShape, Weights

__all__ = ["TASKS", "Hardware", "Recipe", "TensorShape", "Weights", "recipe_for"]

_MODULES = {
    Task.IMAGE_CLASSIFICATION: "services.trainer.recipes.image_classification",
    Task.SFT: "services.trainer.recipes.sft",
    Task.DPO: "services.trainer.recipes.dpo",
}

TASKS = tuple(_MODULES)
"""The tasks that there are recipes for."""


def recipe_for(task: Task) -> Recipe:
    """Return a task's recipe. The first call imports torch and transformers.

    Raises:
        NotAvailable: this version has none for it.
    """
    if task not in _MODULES:
        raise NotAvailable(f"this trainer has no recipe for {task}; it has one for {', '.join(TASKS)}")
    recipe: Recipe = import_module(_MODULES[task]).RECIPE
    return recipe
