"""Causal attention of short rows on a GPU: one program for each message and head.

Kernels for long texts go over the keys in pieces, and in the backward pass add up the gradient of
the queries in float32 and round it in a pass of its own. A text message of at most 128 tokens fits
into the registers of one program: it reads queries, keys and values once and writes what comes
out, forward and backward (Dao et al. 2022, "FlashAttention", algorithm 1 and its appendix B, with
one block). The gradients of the three are written side by side, as the joined layer that made them
(`llm.lora.room`) wants them.

For compiled blocks, in bfloat16. Triton comes with PyTorch for CUDA, and is not there otherwise.
"""

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

LONGEST = 128  # tokens


def suits(x: torch.Tensor, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the kernels are for rows like x (batch, tokens, ...) in a precision."""
    if triton is None or not x.is_cuda or dtype != torch.bfloat16:
        return False
    return head_dim in (32, 64, 128) and x.shape[1] <= LONGEST


if triton is not None:

    @triton.jit
    def _scores(q, k, t, scale):
        s = tl.dot(q, tl.trans(k)) * scale  # (queries, keys)
        return tl.where(t[:, None] >= t[None, :], s, float("-inf"))

    @triton.jit
    def _forward(
        QKV, OUT, LSE, tokens, heads, scale, DIM: tl.constexpr, ROWS: tl.constexpr
    ):  # fmt: skip
        program = tl.program_id(0)
        head = program % heads
        width = heads * DIM
        row = (program // heads).to(tl.int64) * tokens + tl.arange(0, ROWS)
        t, d = tl.arange(0, ROWS), tl.arange(0, DIM)
        real = (t < tokens)[:, None]
        at = QKV + row[:, None] * 3 * width + head * DIM + d[None, :]
        q = tl.load(at, mask=real, other=0.0)
        k = tl.load(at + width, mask=real, other=0.0)
        v = tl.load(at + 2 * width, mask=real, other=0.0)
        s = _scores(q, k, t, scale)
        largest = tl.max(s, 1)
        p = tl.exp(s - largest[:, None])
        total = tl.sum(p, 1)
        o = tl.dot(p.to(v.dtype), v) / total[:, None]
        tl.store(OUT + row[:, None] * width + head * DIM + d[None, :], o.to(v.dtype), mask=real)
        tl.store(LSE + program * tokens + t, largest + tl.log(total), mask=t < tokens)

    @triton.jit
    def _backward(
        QKV, Y, LSE, G, GRAD, tokens, heads, scale, DIM: tl.constexpr, ROWS: tl.constexpr
    ):  # fmt: skip
        program = tl.program_id(0)
        head = program % heads
        width = heads * DIM
        row = (program // heads).to(tl.int64) * tokens + tl.arange(0, ROWS)
        t, d = tl.arange(0, ROWS), tl.arange(0, DIM)
        real = (t < tokens)[:, None]
        wide = row[:, None] * 3 * width + head * DIM + d[None, :]
        narrow = row[:, None] * width + head * DIM + d[None, :]
        q = tl.load(QKV + wide, mask=real, other=0.0)
        k = tl.load(QKV + wide + width, mask=real, other=0.0)
        v = tl.load(QKV + wide + 2 * width, mask=real, other=0.0)
        o = tl.load(Y + narrow, mask=real, other=0.0)
        g = tl.load(G + narrow, mask=real, other=0.0)
        delta = tl.sum(o.to(tl.float32) * g.to(tl.float32), 1)
        lse = tl.load(LSE + program * tokens + t, mask=t < tokens, other=0.0)
        p = tl.exp(_scores(q, k, t, scale) - lse[:, None])
        dv = tl.dot(tl.trans(p.to(q.dtype)), g)
        tl.store(GRAD + wide + 2 * width, dv.to(q.dtype), mask=real)
        ds = (p * (tl.dot(g, tl.trans(v)) - delta[:, None]) * scale).to(q.dtype)
        tl.store(GRAD + wide, tl.dot(ds, k).to(q.dtype), mask=real)
        tl.store(GRAD + wide + width, tl.dot(tl.trans(ds), q).to(q.dtype), mask=real)


def _launch(kernel, tensors: list[torch.Tensor], n_heads: int) -> None:
    batch, tokens, width = tensors[0].shape
    dim = width // 3 // n_heads
    rows = max(16, triton.next_power_of_2(tokens))
    kernel[(batch * n_heads,)](
        *tensors, tokens, n_heads, dim**-0.5, DIM=dim, ROWS=rows, num_warps=4
    )


@torch.library.custom_op("llm::short_attention", mutates_args=())
def _attend(qkv: torch.Tensor, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    batch, tokens, width = qkv.shape
    out = qkv.new_empty(batch, tokens, width // 3)
    logsumexp = qkv.new_empty(batch * n_heads, tokens, dtype=torch.float32)
    _launch(_forward, [qkv.contiguous(), out, logsumexp], n_heads)
    return out, logsumexp


@_attend.register_fake
def _(qkv, n_heads):
    batch, tokens, width = qkv.shape
    return (
        qkv.new_empty(batch, tokens, width // 3),
        qkv.new_empty(batch * n_heads, tokens, dtype=torch.float32),
    )


@torch.library.custom_op("llm::short_attention_backward", mutates_args=())
def _attend_backward(
    qkv: torch.Tensor, out: torch.Tensor, logsumexp: torch.Tensor, grad: torch.Tensor, n_heads: int
) -> torch.Tensor:
    grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    tensors = [qkv.contiguous(), out, logsumexp, grad.contiguous(), grad_qkv]
    _launch(_backward, tensors, n_heads)
    return grad_qkv


@_attend_backward.register_fake
def _(qkv, out, logsumexp, grad, n_heads):
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _keep(ctx, inputs, output) -> None:
    ctx.n_heads = inputs[1]
    ctx.save_for_backward(inputs[0], *output)


def _gradient(ctx, grad, _):
    return _attend_backward(*ctx.saved_tensors, grad, ctx.n_heads), None


_attend.register_autograd(_gradient, setup_context=_keep)


def short_attention(qkv: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Every token attends to itself and to those before it.

    Args:
        qkv: (batch, tokens, 3 * emb_dim), queries, keys and values side by side, heads one after
            another in each.

    Returns:
        (batch, tokens, emb_dim)
    """
    return _attend(qkv, n_heads)[0]
