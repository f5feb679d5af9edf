"""The loss of the next token, and its gradient, without ever holding all scores at once.

A vocabulary is wide: 1,200 tokens have 1,200 x 8,192 scores, 40 MB, which autograd would keep twice
for the backward pass, more than all blocks of a small model keep. The gradient of cross-entropy is
known beforehand, though: probabilities minus one at the right token. So it is computed with the
loss, some tokens at a time, and only the gradient of the hidden states is kept (Hsu et al. 2024,
"Liger Kernel", section 3.2, fused linear cross-entropy).
"""

import torch
from torch.autograd.function import once_differentiable

TOKENS = 256  # at a time: 8 MB of scores with 8,192 tokens to choose from
IGNORED = -100  # a target that does not count


def next_token_loss(
    x: torch.Tensor, embedding: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """The sum over places of -log p(target), in nats.

    Args:
        x: (places, emb_dim), hidden states after the final LayerNorm.
        embedding: (vocab_size, emb_dim), the token embedding, which is the output layer too.
        targets: (places,) ids of the tokens that follow; `IGNORED` where none does.

    Returns:
        a scalar, in float32 at the least.
    """
    return _NextTokenLoss.apply(x, embedding, targets)


class _NextTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, embedding, targets):
        needs_x, needs_embedding, _ = ctx.needs_input_grad
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, on_cpu = embedding.to(x.dtype), x.device.type == "cpu"
        loss = torch.zeros((), dtype=wide, device=x.device)
        grad_x = torch.empty_like(x) if needs_x else None
        grad_weight = torch.zeros_like(embedding) if needs_embedding else None
        for place in range(0, len(x), TOKENS):
            part = slice(place, place + TOKENS)
            counts = (targets[part] != IGNORED)[:, None].to(x.dtype)  # (tokens, 1)
            wanted = targets[part].clamp(min=0)[:, None]  # (tokens, 1)
            scores = (x[part] @ weight.T).to(wide)  # (tokens, vocab_size)
            # One kernel, row by row, each of which a cache holds; logsumexp takes several passes.
            log_p = torch.log_softmax(scores, 1, out=scores if on_cpu else None)
            loss -= (log_p.gather(1, wanted) * counts).sum()
            if not (needs_x or needs_embedding):
                continue
            grad = log_p.exp_()  # probabilities minus one at the right token
            grad = grad.scatter_add_(1, wanted, -torch.ones_like(counts, dtype=wide)).to(x.dtype)
            if needs_x:
                grad_x[part] = (grad @ weight).mul_(counts)
            if needs_embedding:
                counted = x[part] * counts
                if grad.dtype == embedding.dtype:
                    grad_weight.addmm_(grad.T, counted)
                else:
                    grad_weight += (grad.T @ counted).to(embedding.dtype)
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss):
        grad_x, grad_weight = ctx.saved_tensors
        return (
            None if grad_x is None else grad_x * grad_loss.to(grad_x.dtype),
            None if grad_weight is None else grad_weight * grad_loss.to(grad_weight.dtype),
            None,
        )
