"""What a user would have lost by packing: documents that read the ones before them."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from services.hardware.estimate.rules.language_models import KEEPS_PACKED_APART

SMALL: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 100},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128},
    **{"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    **{"shared_expert_intermediate_size": 32, "rotary_dim": 4},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "hidden_dropout": 0.0},
}
FIRST, SECOND = 9, 7


def tiny(model_type: str, attention: str) -> Any:
    kind = CONFIG_MAPPING[model_type]
    known = {*kind().to_dict(), *getattr(kind, "attribute_map", {})}
    config = kind(**{key: value for key, value in SMALL.items() if key in known})
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    torch.manual_seed(0)
    model = model_class._from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        # As they are initialised, attention hardly changes anything.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return model


def leak(model: Any) -> tuple[float, float]:
    """Return by how much a document changes behind another one: packed, and simply joined."""
    ids = torch.randint(3, 100, (1, FIRST + SECOND))
    positions = torch.cat([torch.arange(FIRST), torch.arange(SECOND)])[None]
    with torch.no_grad():
        alone = model(input_ids=ids[:, FIRST:], use_cache=False).logits
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, FIRST:]
        joined = model(input_ids=ids, use_cache=False).logits[:, FIRST:]
    scale = alone.abs().max()
    return float((packed - alone).abs().max() / scale), float((joined - alone).abs().max() / scale)


@pytest.mark.parametrize("model_type", sorted(KEEPS_PACKED_APART))
def test_documents_that_may_be_packed_do_not_see_each_other(model_type: str) -> None:
    attentions = [kind for kind in ("sdpa", "eager") if kind == "eager" or supports_sdpa(model_type)]
    for attention in attentions:
        packed, joined = leak(tiny(model_type, attention))
        assert packed < 1e-4 < 1e-3 < joined


@pytest.mark.parametrize("model_type", ["mamba", "bloom", "opt"])
def test_documents_of_others_do_so_without_an_error(model_type: str) -> None:
    packed, _ = leak(tiny(model_type, "eager"))
    assert packed > 0.01
    assert model_type not in KEEPS_PACKED_APART


def supports_sdpa(model_type: str) -> bool:
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    return bool(model_class._supports_sdpa)
