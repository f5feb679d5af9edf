"""LoRA: leave the pretrained weight matrix W alone, learn a low-rank update beside it.

    y = x W^T + b + (alpha / rank) * (x A B)

          x (in) ------ W, frozen: out x in ------.
             \\                                     (+)--> y (out)
              `-- A: in x rank -- B: rank x out --'

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
Worked numbers, for a 768 x 768 layer of GPT-2 at rank 16: W has 589,824 weights, A and B have
768 * 16 + 16 * 768 = 24,576, which is 4.2 %.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from llm.errors import InputError
from llm.fused import lora_linears

# The Linear layers of a block by name; "all" adds the classifier head to them.
BLOCK_TARGETS = ("W_query", "W_key", "W_value", "out_proj", "fc1", "fc2")


class LoRALayer(nn.Module):
    """The update alone: x -> scale * (x A B), (..., in_dim) -> (..., out_dim).

    A starts from random numbers, B from zeros, so the update starts at exactly zero: a model with
    fresh LoRA layers answers as it did without them, and still B has a gradient to leave zero by.

    A is drawn uniformly from +-1/sqrt(in_dim), Kaiming's rule for the fan-in of the layer, as
    loralib and peft do. The lesson stores A as (in_dim, rank) too but hands that to PyTorch's
    `kaiming_uniform_`, which takes the second number, the rank, for the fan-in: for 768 inputs and
    rank 16 it draws from +-0.25 in place of +-0.036, 6.9 times wider. Hence the `.T` below.

    Args:
        in_dim, out_dim: of the layer that is adapted.
        rank: columns of A and rows of B.
        alpha: strength of the update. The scale is alpha / rank, so that a change of rank does
            not change the strength; the lesson's first code multiplied by alpha alone, which at
            rank 16 learns 16 times as hard: alpha = 16 there is alpha = 256 here.
        dropout: share of the inputs to A that is zeroed while training.
        rslora: scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, "rsLoRA").
        dtype: of A and B.

    Raises InputError when a setting is out of its range.
    """

    def __init__(self, in_dim, out_dim, rank, alpha, dropout=0.0, rslora=False, dtype=None):
        super().__init__()
        check_settings(rank, alpha, dropout)
        self.rank, self.alpha, self.rslora = rank, alpha, rslora
        self.scale = alpha / math.sqrt(rank) if rslora else alpha / rank
        self.A = nn.Parameter(torch.empty(in_dim, rank, dtype=dtype))
        self.B = nn.Parameter(torch.zeros(rank, out_dim, dtype=dtype))
        nn.init.kaiming_uniform_(self.A.T, a=math.sqrt(5))  # +-1/sqrt(in_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in_dim) -> (..., rank) -> (..., out_dim)"""
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        return self.scale * (self.dropout(x) @ A @ B)

    def delta(self) -> torch.Tensor:
        """The update as one matrix in the layout of `nn.Linear.weight`, (out_dim, in_dim)."""
        return self.scale * (self.A @ self.B).T


def check_settings(rank, alpha, dropout) -> None:
    """Raise InputError when a LoRA layer cannot have these settings."""
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"rank must be a whole number of at least 1, not {rank!r}")
    if not isinstance(alpha, int | float) or not 0 < alpha < math.inf:
        raise InputError(f"alpha must be a number above 0, not {alpha!r}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise InputError(f"LoRA dropout must be in [0, 1), not {dropout!r}")


class LinearWithLoRA(nn.Module):
    """A frozen `nn.Linear` with a trainable LoRALayer beside it, (..., in) -> (..., out)."""

    def __init__(self, linear: nn.Linear, rank, alpha, dropout=0.0, rslora=False):
        super().__init__()
        if isinstance(linear, LinearWithLoRA):
            raise InputError("this layer has a LoRA layer already; merge or remove it first")
        out_dim, in_dim = linear.weight.shape
        self.linear = linear
        # A frozen W may be kept in bfloat16; what is trained needs float32 for its small steps.
        dtype = torch.promote_types(linear.weight.dtype, torch.float32)
        with linear.weight.device:  # A and B live where the layer lives, "meta" included
            self.lora = LoRALayer(in_dim, out_dim, rank, alpha, dropout, rslora, dtype)
        self.train(linear.training)  # in a model that evaluates, no dropout
        self.merged, self.fused = False, True  # fused: not step by step, where that is possible

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The equation at the top of this file; `step_by_step` is the form to read."""
        return self.together((self,), x)[0]

    @staticmethod
    def together(layers: Sequence["LinearWithLoRA"], x: torch.Tensor) -> Sequence[torch.Tensor]:
        """What each of several layers makes of the same x; `llm.fused` does it in fewer passes."""
        if len({layer.lora.scale for layer in layers}) > 1:
            return [layer(x) for layer in layers]
        if not all(layer._fusible() for layer in layers):
            return [layer.linear(x) if layer.merged else layer.step_by_step(x) for layer in layers]
        # Under autocast all compute in its lower precision, else in that of the input.
        kind = x.device.type
        low_precision = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if low_precision else x.dtype
        tensors = [
            [
                None if tensor is None else tensor.to(dtype)
                for tensor in (layer.linear.weight, layer.linear.bias, layer.lora.A, layer.lora.B)
            ]
            for layer in layers
        ]
        return lora_linears(x.to(dtype), layers[0].lora.scale, tensors)

    def _fusible(self) -> bool:
        """The fused form has no dropout and no gradient for W."""
        dropping = self.lora.training and self.lora.dropout.p > 0
        base_trained = any(parameter.requires_grad for parameter in self.linear.parameters())
        return self.fused and not (self.merged or dropping or base_trained)

    def step_by_step(self, x: torch.Tensor) -> torch.Tensor:
        """The frozen layer plus the update."""
        return self.linear(x) + self.lora(x)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the update into W, so that inference costs what it did without LoRA.

        Raises InputError when it is merged already: adding the update twice is never wanted.
        """
        if self.merged:
            raise InputError("the LoRA layer is merged already; unmerge it first")
        self.linear.weight += self.lora.delta().to(self.linear.weight.dtype)
        self.merged = True

    @torch.no_grad()
    def unmerge(self) -> None:
        """Take the update out of W again; W comes back to rounding.

        Raises InputError when it is not merged.
        """
        if not self.merged:
            raise InputError("the LoRA layer is not merged; there is nothing to unmerge")
        self.linear.weight -= self.lora.delta().to(self.linear.weight.dtype)
        self.merged = False


def replace_linear_with_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    targets: str | Iterable[str] = BLOCK_TARGETS,
    dropout: float = 0.0,
    rslora: bool = False,
    freeze: bool = True,
) -> list[str]:
    """Put a LoRA layer beside every Linear that `targets` names, in place.

    Args:
        model: any module; a GPTClassifier's head is trained itself unless it is a target. It
            starts from random numbers, and a low-rank update of a random matrix is not what one
            wants: 12,320 numbers at rank 16 to steer 1,538.
        targets: the last part of the layers' names ("W_query"), or "all" for every Linear,
            the head included, as the lesson's code does.
        freeze: let only A and B (and the untargeted head) be trained.

    Returns:
        the full names of the replaced layers, in the model's order.

    Raises:
        InputError: an unknown target (lists the names there are), LoRA layers there already, a
            setting out of range. Nothing is changed then.
    """
    check_settings(rank, alpha, dropout)
    if any(isinstance(module, LinearWithLoRA) for module in model.modules()):
        raise InputError("the model has LoRA layers already; merge them before adding others")
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    wanted = known if targets == "all" else [targets] if isinstance(targets, str) else list(targets)
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise InputError(
            f"no Linear layer is called {', '.join(unknown) or '(nothing)'}; "
            f"choose from {', '.join(known)}, or all"
        )
    replaced = [name for name in linears if name.rpartition(".")[2] in wanted]
    widest = max(max(model.get_submodule(name).weight.shape) for name in replaced)
    if rank > widest:
        raise InputError(f"rank {rank} is too large: no layer here has more than {widest} of it")
    if freeze:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("head" not in wanted and name.startswith("head."))
    for name in replaced:
        parent, _, child = name.rpartition(".")
        owner = model.get_submodule(parent)
        setattr(owner, child, LinearWithLoRA(getattr(owner, child), rank, alpha, dropout, rslora))
    return replaced


def lora_layers(model: nn.Module) -> dict[str, LinearWithLoRA]:
    """The LoRA-adapted layers of a model by their full name."""
    layers = model.named_modules()
    return {name: module for name, module in layers if isinstance(module, LinearWithLoRA)}


def merge(model: nn.Module) -> None:
    """Merge every LoRA layer of the model. Raises InputError when one is merged already."""
    for layer in _all_with(model, merged=False):
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Unmerge every LoRA layer of the model. Raises InputError when one is not merged."""
    for layer in _all_with(model, merged=True):
        layer.unmerge()


def merge_and_unload(model: nn.Module) -> None:
    """Fold every update into its W and take the LoRA layers out: a plain model remains."""
    for name, layer in lora_layers(model).items():
        if not layer.merged:
            layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.linear)


def merged_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name as `merge_and_unload` would leave them; the model stays as it is."""
    state = model.state_dict()
    for name, layer in lora_layers(model).items():
        del state[f"{name}.lora.A"], state[f"{name}.lora.B"]
        for kind, _ in layer.linear.named_parameters():
            state[f"{name}.{kind}"] = state.pop(f"{name}.linear.{kind}")
        if not layer.merged:
            delta = layer.lora.delta().detach()
            state[f"{name}.weight"] = state[f"{name}.weight"] + delta.to(layer.linear.weight.dtype)
    return state


def _all_with(model: nn.Module, merged: bool) -> list[LinearWithLoRA]:
    """All LoRA layers, checked before any is touched, so that an error leaves nothing half done."""
    layers = list(lora_layers(model).values())
    if not layers:
        raise InputError("the model has no LoRA layers; add them with replace_linear_with_lora")
    if any(layer.merged != merged for layer in layers):
        state = "merged already" if not merged else "not merged"
        raise InputError(f"a LoRA layer of this model is {state}")
    return layers
