"""A layer with another update for each message of a batch, against peft's `adapter_names=`."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from llm.inference import mixed
from llm.inference.mixed import Groups, MixedLinear
from llm.inference.stacked import Update
from llm.lora.layer import LinearWithLoRA

RANKS = {"a": 2, "b": 4}
GROUPS = {"a": 3, "__base__": 1, "b": 2}  # messages of each


def layers(seed=0, alpha=(3, 3)):
    """One linear layer with adapters of two ranks and strengths in peft, and the same here."""
    torch.manual_seed(seed)
    linear = nn.Linear(6, 5)
    model = None
    for (name, rank), strength in zip(RANKS.items(), alpha):
        settings = LoraConfig(
            r=rank, lora_alpha=strength, target_modules=["linear"], init_lora_weights=False
        )
        if model is None:
            model = get_peft_model(nn.ModuleDict({"linear": linear}), settings, adapter_name=name)
        else:
            model.add_adapter(name, settings)
    peft = model.base_model.model["linear"].eval()
    updates = {"__base__": None}
    for (name, rank), strength in zip(RANKS.items(), alpha):
        updates[name] = LinearWithLoRA(linear, rank, strength)
        with torch.no_grad():
            updates[name].lora.A.copy_(peft.lora_A[name].weight.T)
            updates[name].lora.B.copy_(peft.lora_B[name].weight.T)
    return peft, linear, [updates[name] and Update.of(updates[name]) for name in GROUPS]


@pytest.mark.parametrize("few", [1, 8])  # one after the other, or gathered where that is possible
@pytest.mark.parametrize("tokens", [1, 4])
def test_each_message_has_the_update_of_its_own_adapter(tokens, few, monkeypatch):
    monkeypatch.setattr(mixed, "FEW", few)
    peft, linear, updates = layers()
    names = [name for name, count in GROUPS.items() for _ in range(count)]
    x = torch.randn(len(names), tokens, 6)
    counts = list(GROUPS.values())
    groups = Groups(counts, [count * tokens for count in counts])
    layer = MixedLinear(linear, updates, groups)
    with torch.no_grad():
        expected = peft(x, adapter_names=names)
        torch.testing.assert_close(layer(x), expected, atol=1e-6, rtol=0)
        packed = layer(x.view(1, -1, 6))  # the messages end to end
        torch.testing.assert_close(packed.view_as(expected), expected, atol=1e-6, rtol=0)
    assert any("by message" in key for key in groups._kept) == (tokens == 1 and few == 8)


@pytest.mark.parametrize("columns", [1, 8, 64])  # each group alone, two neighbours, all
def test_layers_that_read_the_same_share_products(columns, monkeypatch):
    monkeypatch.setattr(mixed, "COLUMNS", columns)
    made = [layers(seed, (3, 5)) for seed in range(3)]
    counts, tokens = list(GROUPS.values()), [7, 2, 3]
    groups = Groups(counts, tokens)
    together = tuple(MixedLinear(linear, updates, groups) for _, linear, updates in made)
    x = torch.randn(1, sum(tokens), 6)
    names = [name for name, count in zip(GROUPS, tokens) for _ in range(count)]
    with torch.no_grad():
        found = mixed.mixed_outputs(together, x)
        for (peft, _, _), y in zip(made, found):
            expected = peft(x[0][:, None], adapter_names=names)[:, 0]
            torch.testing.assert_close(y[0], expected, atol=1e-6, rtol=0)
