"""The products of a step, as `llm.benchmark limit` counts them, against PyTorch's own counter."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, addmm_flop

from llm.benchmark import limit
from llm.data.batching import Encoded
from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.training.classification import ClassificationTask


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_products_are_those_that_pytorch_counts(method):
    config = GPTConfig(300, 64, 24, 2, 3)
    model = GPTClassifier(config, pool="mean")
    apply_method(model, method, LoRASettings(rank=4))
    lengths = [50, 61, 7, 33]
    messages = Encoded([list(range(length)) for length in lengths], [0, 1, 1, 0], 0)
    task = ClassificationTask(model, messages, messages, 4, 0, lm_loss=0.5)

    def in_place(to, a, b, out_shape=None, **others):  # the counter knows the product, not this one
        return addmm_flop(to, a, b)

    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.addmm_: in_place}
    ) as counter:
        task.loss(model, task.batch(0)).backward()
    counts = counter.get_flop_counts()["Global"]
    counted = sum(flops for name, flops in counts.items() if "attention" not in str(name))
    found = limit.products(config, lengths, method, 4)
    assert sum(product.operations for product in found) == counted


def test_the_suite_runs():
    given = SimpleNamespace(rounds=1, steps=2, threads=torch.get_num_threads(), quick=True)
    content = limit.limit(given)
    for method in ("lora", "full"):
        found = content["ratios"][method]
        assert len(content["results"][method]) == 1
        assert found["seconds"]["low"] > 0 and found["over products"]["low"] > 0
        parts = found["products by part"]
        assert ("A and B" in parts) == (method == "lora")
        assert found["profile, seconds"]["products"] > 0
    full, lora = (content["results"][method][0]["operations"] for method in ("full", "lora"))
    assert full > lora
