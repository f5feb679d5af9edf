"""Muon: move every matrix inside the blocks by an orthogonal one; AdamW for all the rest.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"; the scale of
a step is that of Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2.

A gradient of a matrix is mostly a few strong directions; AdamW's step is too. Muon replaces the
averaged gradient U S V^T by U V^T: all directions are followed alike, the weak ones as well.
`torch.optim.Muon` does the same one matrix after the other. A small model has many small matrices,
and a GPU would wait for Python, so here all matrices of one shape are worked on at once.
"""

import math

import torch

MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """AdamW, except in the parameter groups that have `orthogonal` set; their entries are 2-D."""

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._orthogonal_step(group)
        return super().step(closure)  # of those that still have a gradient

    def _orthogonal_step(self, group: dict) -> None:
        by_shape: dict[torch.Size, list] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for shape, parameters in by_shape.items():
            gradients = [parameter.grad for parameter in parameters]
            averages = [self._average(parameter) for parameter in parameters]
            torch._foreach_lerp_(averages, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, averages, MOMENTUM)  # Nesterov's look ahead
            directions = orthogonal(torch.stack(ahead)).to(parameters[0].dtype)
            # An n x m orthogonal matrix has entries of size 1 / sqrt(max(n, m)); AdamW's steps
            # have a size of 0.2 to 0.4 times the learning rate, so one rate will do for both.
            size = group["lr"] * 0.2 * math.sqrt(max(shape))
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, directions.unbind(), alpha=-size)
            for parameter in parameters:
                parameter.grad = None

    def _average(self, parameter: torch.Tensor) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        return state["exp_avg"]


def orthogonal(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """U V^T, roughly, of each matrix U S V^T: (count, rows, columns) -> the same, in bfloat16.

    Newton and Schulz's iteration needs products alone. Each round takes every singular value s to
    a s + b s^3 + c s^5; with these numbers five rounds bring values of very different size to
    between 0.7 and 1.2, which is near enough.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:  # the shorter side first: x x^T is the smaller of the two squares
        x = x.transpose(1, 2)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(rounds):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
