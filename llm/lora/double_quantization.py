"""Double quantisation: the scales of NF4 in 8 bits each, with scales of their own.

A scale for every 64 weights costs 32/64 = 0.5 bits a weight. In 8 bits it costs 8/64, and a second
scale for every 256 of these another 32/(64 * 256): 0.127 bits (Dettmers et al. 2023, "QLoRA",
section 3, "Double Quantization").

All scales are positive and of like size. So their mean over the whole matrix, the *offset*, is
taken off first, which leaves numbers on both sides of zero, where the 8-bit levels lie.

**A fused layer is not its parts.** The offset is one number for the whole matrix. GPT-2 keeps
query, key and value in one matrix, our model in three; quantised without double quantisation they
are the same numbers, with it each of the three has an offset of its own, and the fused one has
another. An adapter is trained on one of the two, and must be used on that.

The levels are those of Dettmers et al. 2021, "8-bit Optimizers via Block-wise Quantization",
section 1.3, as in bitsandbytes. Its two programs choose among them by different rules: on a GPU the
nearest level, as here; on a CPU, by a table of 65,536 entries, the level that is nearest to the
table's next entry. Then 2 or 3 scales in a thousand of a matrix of GPT-2's size get a neighbouring
level, and the numbers that come back differ by less than a thousandth of their size (the tests).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

BLOCK = 256  # scales that share a second scale


def nearest(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The number of the level nearest to each x; of two at the same distance, the lower.

    Args:
        x: any shape, in [-1, 1].
        levels: (at most 256,), ascending.

    Returns:
        uint8, the shape of x.
    """
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(x, middles, out_int32=True).to(torch.uint8)


_LEVELS: dict[torch.device, torch.Tensor] = {}  # made once; to PyTorch's compiler an input


def dynamic_levels(device: torch.device) -> torch.Tensor:
    """The 256 levels of an 8-bit number whose fraction is the longer the larger it is: (256,).

    There are 7 powers of ten. The smallest, 10^-6, has 1 level a sign, the next 2, then 4, up to 64
    for the numbers from 0.1 to 1: the middles of so many equal parts of that stretch. With zero and
    1 that makes 2 * 127 + 2.
    """
    if device in _LEVELS:
        return _LEVELS[device]
    levels = [torch.tensor([0.0, 1.0], device="cpu")]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1, device="cpu")
        middles = 10.0 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2)
        levels += [middles, -middles]
    _LEVELS[device] = torch.cat(levels).sort().values.to(device)
    return _LEVELS[device]


def without_numbers(shape, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor that has a shape alone, as everything on the meta device has.

    To compute shapes there by the usual operations would have PyTorch load its compiler: two
    seconds.
    """
    return torch.empty(shape, dtype=dtype, device="meta")


class DoubleQuantized(nn.Module):
    """Positive numbers (n,) as 8-bit codes (n,), a scale a block (ceil(n / 256),), and an offset.

    All three are buffers, `codes`, `scales` and `offset`; calling it gives the numbers back, (n,)
    in float32.
    """

    def __init__(self, numbers: torch.Tensor):
        super().__init__()
        self.register_buffer("codes", without_numbers(len(numbers), torch.uint8))
        self.register_buffer("scales", without_numbers(math.ceil(len(numbers) / BLOCK)))
        self.register_buffer("offset", without_numbers(()))
        if numbers.is_meta:
            return
        offset = numbers.mean()
        blocks = F.pad(numbers - offset, (0, -len(numbers) % BLOCK)).view(-1, BLOCK)
        scales = blocks.abs().amax(dim=1)
        scaled = blocks * (1.0 / scales.clamp(min=1e-38))[:, None]
        codes = nearest(scaled.view(-1), dynamic_levels(numbers.device))
        self.codes, self.scales, self.offset = codes[: len(numbers)].clone(), scales, offset

    def forward(self) -> torch.Tensor:
        """The numbers that the codes stand for: (n,)."""
        count = len(self.codes)
        flat = F.embedding(self.codes.int(), dynamic_levels(self.codes.device)[:, None]).view(-1)
        flat = F.pad(flat, (0, math.ceil(count / BLOCK) * BLOCK - count))
        return (flat.view(-1, BLOCK) * self.scales[:, None]).view(-1)[:count] + self.offset
