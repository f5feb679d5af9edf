"""A layer with another update for each message of a batch, against peft's `adapter_names=`."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from llm.inference import mixed
from llm.inference.mixed import MixedLinear
from llm.lora.layer import LinearWithLoRA

RANKS = {"a": 2, "b": 4}
GROUPS = {"a": 3, "__base__": 1, "b": 2}  # messages of each


def layers():
    """One linear layer with adapters of two ranks in peft, and the same here."""
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    model = None
    for name, rank in RANKS.items():
        settings = LoraConfig(
            r=rank, lora_alpha=3, target_modules=["linear"], init_lora_weights=False
        )
        if model is None:
            model = get_peft_model(nn.ModuleDict({"linear": linear}), settings, adapter_name=name)
        else:
            model.add_adapter(name, settings)
    peft = model.base_model.model["linear"].eval()
    updates = {"__base__": None}
    for name, rank in RANKS.items():
        updates[name] = LinearWithLoRA(linear, rank, alpha=3)
        with torch.no_grad():
            updates[name].lora.A.copy_(peft.lora_A[name].weight.T)
            updates[name].lora.B.copy_(peft.lora_B[name].weight.T)
    return peft, linear, [updates[name] for name in GROUPS]


@pytest.mark.parametrize("few", [1, 8])  # one after the other, or gathered where that is possible
@pytest.mark.parametrize("tokens", [1, 4])
def test_each_message_has_the_update_of_its_own_adapter(tokens, few, monkeypatch):
    monkeypatch.setattr(mixed, "FEW", few)
    peft, linear, updates = layers()
    names = [name for name, count in GROUPS.items() for _ in range(count)]
    x = torch.randn(len(names), tokens, 6)
    counts = list(GROUPS.values())
    layer = MixedLinear(linear, updates, counts, [count * tokens for count in counts])
    with torch.no_grad():
        expected = peft(x, adapter_names=names)
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)
        packed = layer(x.view(1, -1, 6))  # the messages end to end
        torch.testing.assert_close(packed.view_as(expected), expected, atol=1e-6, rtol=0)
    assert ("gathered" in vars(layer)) == (tokens == 1 and few == 8)
