"""The memory account against small cases counted by hand."""

import weakref

import torch
from torch import nn

from llm.lora.layer import LinearWithLoRA
from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.parameters import parameter_counts
from llm.training.memory import activation_memory, memory_account, static_memory, step_peak

FLOAT = 4  # bytes


def test_static_memory_of_one_linear_by_hand():
    layer = nn.Linear(3, 5)  # 15 weights, 5 biases
    assert static_memory(layer) == {
        "weights": 20 * FLOAT,
        "gradients": 20 * FLOAT,
        "optimizer": 2 * 20 * FLOAT + 2 * FLOAT,  # two means a weight, a step counter a tensor
    }


def test_frozen_weights_have_no_gradient_and_no_optimizer_state():
    layer = nn.Linear(3, 5)
    layer.weight.requires_grad_(False)
    memory = static_memory(layer)
    assert memory["weights"] == 20 * FLOAT
    assert memory["gradients"] == 5 * FLOAT
    assert memory["optimizer"] == 2 * 5 * FLOAT + FLOAT


def test_the_optimizer_holds_what_the_account_says():
    layer = nn.Linear(7, 3)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.randn(2, 7)).sum().backward()
    optimizer.step()
    held = [tensor for state in optimizer.state.values() for tensor in state.values()]
    held_bytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert held_bytes == static_memory(layer)["optimizer"]


def test_bfloat16_weights_count_two_bytes_and_buffers_count():
    layer = nn.BatchNorm1d(4).to(torch.bfloat16)  # 8 weights, 8 running numbers, one counter of 8
    assert static_memory(layer)["weights"] == 2 * 16 + 8


def test_a_shared_tensor_counts_once():
    layer = nn.Linear(4, 4, bias=False)
    twice = nn.Sequential(layer, layer)
    assert parameter_counts(twice) == {"total": 16, "trainable": 16}
    assert static_memory(twice)["weights"] == 16 * FLOAT


def test_activations_of_a_linear_are_its_input():
    layer, x = nn.Linear(3, 5), torch.randn(7, 3)
    # backward: the gradient of W is the gradient of y times x; W itself is no activation
    assert activation_memory(layer, lambda: layer(x).sum()) == 7 * 3 * FLOAT


def test_a_frozen_linear_at_the_bottom_keeps_nothing():
    layer, x = nn.Linear(3, 5).requires_grad_(False), torch.randn(7, 3)
    tail = nn.Linear(5, 2)
    model = nn.Sequential(layer, tail)
    assert activation_memory(model, lambda: model(x).sum()) == 7 * 5 * FLOAT  # the tail's input


def test_views_and_repeats_of_one_storage_count_once():
    x = torch.randn(6, 4, requires_grad=True)
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward() -> torch.Tensor:
        rows = x * 2  # 24 numbers (multiplying by a constant keeps nothing)
        return sum(layer(rows.view(2, 3, 4)).sum() for layer in layers)

    assert activation_memory(layers, forward) == 24 * FLOAT


def test_activations_of_a_lora_layer_by_hand():
    layer = LinearWithLoRA(nn.Linear(3, 5), rank=2, alpha=2)
    layer.linear.requires_grad_(False)
    x = torch.randn(7, 3)
    # x for the gradient of A, x A (7 x 2) for the gradient of B; nothing for the frozen W
    assert activation_memory(layer, lambda: layer(x).sum()) == (7 * 3 + 7 * 2) * FLOAT


def classifier(method: str, layers: int = 2):
    torch.manual_seed(0)
    model = GPTClassifier(GPTConfig(50, 16, 32, 2, layers))
    apply_method(model, method, LoRASettings(rank=2, alpha=2))
    ids, lengths = torch.randint(0, 50, (4, 16)), torch.tensor([16, 3, 9, 5])
    return model, lambda: model(ids, lengths).square().sum()


def test_lora_keeps_about_as_many_activations_as_full_training():
    """The x of every adapted layer is needed for A; what is saved are gradients and optimizer."""
    accounts = {method: memory_account(*classifier(method)) for method in ("full", "lora", "head")}
    kept = {method: account["activations"] for method, account in accounts.items()}
    assert kept["head"] < 0.1 * kept["lora"]
    assert 0.9 < kept["lora"] / kept["full"] < 1.1
    assert accounts["lora"]["gradients"] < accounts["full"]["gradients"]


def test_every_full_block_adds_the_same():
    kept = [activation_memory(*classifier("lora", layers)) for layers in (2, 3, 4)]
    assert kept[2] - kept[1] == kept[1] - kept[0] > 0


def test_the_account_works_without_memory():
    with torch.device("meta"):
        model = GPTClassifier(GPTConfig())
    assert static_memory(model)["weights"] == 124_441_346 * FLOAT


def test_the_peak_is_at_one_end_of_the_backward_pass():
    account = {"weights": 10, "optimizer": 5, "gradients": 3, "activations": 7}
    assert step_peak(account) == 10 + 5 + 7
    assert step_peak({**account, "gradients": 30}) == 10 + 5 + 30


def test_counting_leaves_nothing_behind():
    layer, outputs = nn.Linear(3, 5), []

    def forward() -> torch.Tensor:
        output = layer(torch.ones(2, 3)).exp()  # exp keeps its own output for the backward pass
        outputs.append(weakref.ref(output))
        return output.sum()

    assert activation_memory(layer, forward) > 0
    assert outputs[0]() is None
