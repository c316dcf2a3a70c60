"""Every recipe takes two training steps from its config alone, without weights, data or memory for them."""

import json
import resource
from dataclasses import replace

import pytest
from transformers import AutoConfig, PreTrainedConfig

from services.common.specs import LoraOptions, Task
from services.trainer.recipes import TASKS, recipe_for
from tests.trainer.recipes.fake_steps import take_two_steps
from tests.trainer.specs import LORA, SPEC, config_json

pytestmark = pytest.mark.filterwarnings("ignore")

# ViT-22B's width: ten times what the machines have that run this.
HUGE = {
    "hidden_size": 6144,
    "intermediate_size": 24576,
    "num_attention_heads": 48,
    "num_hidden_layers": 4,
    "image_size": 224,
    "patch_size": 14,
}


def config(**changes: int) -> PreTrainedConfig:
    values = json.loads(config_json(("cat", "dog"), **changes))
    return AutoConfig.for_model(values.pop("model_type"), **values)


def test_there_is_a_recipe_for_each_task_that_is_said_to_have_one() -> None:
    assert set(TASKS) == set(Task)


@pytest.mark.parametrize("lora", [None, LORA, replace(LORA, use_dora=True), replace(LORA, use_rslora=True)])
def test_two_steps_from_the_config_alone(lora: LoraOptions | None) -> None:
    spec = replace(SPEC, lora=lora, image=replace(SPEC.image, image_size=224))
    recipe = recipe_for(spec.task)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    trainer = take_two_steps(lambda: recipe.build(spec, config(**HUGE)), recipe.worst_batch(spec, config()))

    grown_bytes = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib)
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    trained = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
    assert parameters > 1_500_000_000
    assert (trained == parameters) == (lora is None)
    assert len(trainer.optimizer.state) == sum(p.requires_grad for p in trainer.network.parameters())
    assert grown_bytes < 1 << 30


def test_worst_batch_is_a_full_batch_of_full_size() -> None:
    shapes = recipe_for(SPEC.task).worst_batch(SPEC, config())
    assert shapes["pixel_values"].shape == (4, 3, 16, 16)
    assert shapes["labels"].shape == (4,)
