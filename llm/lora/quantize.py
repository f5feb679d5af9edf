"""Fewer bits a weight: what QLoRA keeps the frozen W in, written out.

To quantise is to store, in place of a number, which of a few levels lies nearest to it. The levels
lie between -1 and 1, so a scale goes with them: the largest absolute value (*absmax*) of the
numbers that share it.

* `quantize_int8`: 255 evenly spaced levels and one scale a row of W: 8 bits a weight and a little.
* `quantize_nf4` (NormalFloat, Dettmers et al. 2023, "QLoRA", section 3): 16 levels, and a scale
  for every 64 weights, so that one large weight spoils the steps of 63 others and no more. Trained
  weights look as if drawn from a normal distribution. The levels are its quantiles: each is used
  about as often as the others, and they lie close where most weights are (`normal_levels`).
  4 + 32/64 = 4.5 bits a weight; `double=True` quantises the scales too, 4.127 bits
  (`llm.lora.double_quantization`).

A block, quantised by hand: the weights 0.10, -0.40, 0.06 have the scale 0.40; divided by it they
are 0.25, -1 and 0.15; the nearest levels are 0.246, -1 and 0.161, numbers 10, 0 and 9; what comes
back is 0.098, -0.40 and 0.064.

**Which weights share a scale depends on how W lies in memory.** Blocks are cut from W row by row,
as `nn.Linear` keeps it, (out, in): a block is 64 inputs of one output. Of the transposed matrix
they would be 64 outputs of one input, with other scales and other errors: Q(W^T) is not Q(W)^T.
Ours is also what bitsandbytes does, and transformers, which for this turns GPT-2's Conv1D, (in,
out), round first. So the numbers can be compared one by one.

Codes, scales and what `dequantize` returns equal those of bitsandbytes bit for bit (the tests).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from llm.lora.double_quantization import DoubleQuantized, nearest, without_numbers
from llm.utils.errors import InputError

# `normal_levels`, rounded once and for all: another version of SciPy may round otherwise, and what
# is stored as a number from 0 to 15 must mean the same everywhere.
NF4_LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
TINY = 1e-38  # for a scale of zero, by which nothing can be divided


def normal_levels() -> torch.Tensor:
    """The 16 levels of NF4, (16,), as they come about.

    Quantiles of the normal distribution at evenly spaced probabilities, from both ends to the
    middle, and divided by the largest: 8 levels above zero, 7 below, and zero itself, because a
    weight of zero is to stay zero. The outermost quantile would be infinite at the probability 1.
    It is taken in the middle of the last step, of 1/32 or of 1/30: 16 or 15 steps from 0 to 1, for
    the 8 and the 7 levels.
    """
    from scipy.special import ndtri  # the normal distribution's quantile function

    last = 0.9677083  # (1 - 1/32 + 1 - 1/30) / 2 in as many digits as the authors used
    above = ndtri(torch.linspace(last, 0.5, 9)[:-1].double().numpy())  # 0.5 itself gives zero
    below = -ndtri(torch.linspace(last, 0.5, 8)[:-1].double().numpy())
    levels = torch.tensor(sorted([*above, 0.0, *below]), dtype=torch.float32)
    return levels / levels.max()


class QuantizedWeight(nn.Module):
    """A matrix in codes and scales, which are buffers: they go with the model to a device.

    Attributes:
        shape, dtype: of the matrix it was made from.
    """

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        if not weight.is_floating_point() or not weight.numel():
            raise InputError("only a matrix of floating-point numbers can be quantised")
        self.shape, self.dtype = weight.shape, weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of the codes and of all that belongs to them."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def numel(self) -> int:
        """How many weights there are."""
        return self.shape.numel()

    @property
    def weights_in_codes(self) -> int:
        """The same, for `llm.model.parameters`: they are weights, but no parameters to PyTorch."""
        return self.numel()

    @property
    def bits_per_weight(self) -> float:
        """All of it, shared out over the weights."""
        return 8 * self.nbytes / self.numel()

    def dequantize(self) -> torch.Tensor:
        """The numbers that the codes stand for, in the matrix's shape and dtype, made anew."""
        raise NotImplementedError

    def numbers(self, dtype: torch.dtype) -> torch.Tensor:
        """The same in another dtype, for a product."""
        return self.dequantize().to(dtype)


class Int8Weight(QuantizedWeight):
    """A matrix as whole numbers from -127 to 127, (out, in), and a scale a row, (out,)."""

    def __init__(self, weight: torch.Tensor):
        super().__init__(weight)
        rows = weight.detach().reshape(-1, weight.shape[-1])
        if weight.is_meta:
            codes, scales = without_numbers(rows.shape, torch.int8), without_numbers(rows.shape[:1])
        else:
            rows = rows.float()
            scales = rows.abs().amax(dim=1)
            codes = torch.round(rows * (127.0 / scales.clamp(min=TINY))[:, None]).to(torch.int8)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def dequantize(self) -> torch.Tensor:
        """code / 127 * scale. See QuantizedWeight."""
        weight = self.codes * self.scales[:, None] * (1 / 127)
        return weight.view(self.shape).to(self.dtype)


class NF4Weight(QuantizedWeight):
    """A matrix as numbers of levels, two in a byte (the first in its high half), and scales.

    `codes` is (ceil(weights / 2),). `block_scales()`, one a block of weights in the order in which
    they lie in memory, is (ceil(weights / block),): the last block may be short.
    """

    def __init__(self, weight: torch.Tensor, block: int = 64, double: bool = False):
        super().__init__(weight)
        if not isinstance(block, int) or block < 1:
            raise InputError(f"a block has a whole number of weights, at least 1, not {block!r}")
        self.block = block
        codes, scales = self._without_numbers() if weight.is_meta else self._quantized(weight)
        self.register_buffer("codes", codes)
        if double:
            self.scales = DoubleQuantized(scales)
        else:
            self.register_buffer("scales", scales)

    def _quantized(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes and scales of a matrix."""
        flat, block = weight.detach().reshape(-1).float(), self.block
        short = len(flat) % block
        blocks = F.pad(flat, (0, -len(flat) % block)).view(-1, block)  # filled up with zeros
        scales = blocks.abs().amax(dim=1)
        scaled = blocks * (1.0 / scales.clamp(min=TINY))[:, None]
        if short:  # bitsandbytes divides here, which may round otherwise, and keeps the TINY
            scales[-1].clamp_(min=TINY)
            scaled[-1] = blocks[-1] / scales[-1]
        numbers = nearest(scaled.view(-1), torch.tensor(NF4_LEVELS, device=flat.device))
        numbers = F.pad(numbers, (0, len(numbers) % 2), value=NF4_LEVELS.index(0.0))
        packed = (numbers[::2] << 4) | numbers[1::2]
        return packed[: math.ceil(len(flat) / 2)].clone(), scales

    def _without_numbers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Their shapes, on the meta device."""
        codes = without_numbers(math.ceil(self.numel() / 2), torch.uint8)
        return codes, without_numbers(math.ceil(self.numel() / self.block))

    def block_scales(self) -> torch.Tensor:
        """(blocks,) float32, as `dequantize` uses them."""
        return self.scales() if isinstance(self.scales, DoubleQuantized) else self.scales

    def dequantize(self) -> torch.Tensor:
        """level * scale. See QuantizedWeight."""
        count, scales = self.numel(), self.block_scales()
        flat = self._levels()
        whole = count // self.block  # blocks that are not short
        flat[: whole * self.block].view(whole, self.block).mul_(scales[:whole, None])
        flat[whole * self.block :].mul_(scales[-1])
        return flat.view(self.shape).to(self.dtype)

    def numbers(self, dtype: torch.dtype) -> torch.Tensor:
        """See QuantizedWeight; rounded where they are multiplied, in one pass over memory."""
        rounded_once = self.dtype == torch.float32 != dtype and not self.numel() % self.block
        # A CPU takes longer so, and the compiler makes one pass of anything.
        if not rounded_once or not self.codes.is_cuda or torch.compiler.is_compiling():
            return super().numbers(dtype)
        weight = torch.empty(self.shape, dtype=dtype, device=self.device)
        levels, scales = self._levels().view(-1, self.block), self.block_scales()[:, None]
        torch.mul(levels, scales, out=weight.view(-1, self.block))
        return weight

    def _levels(self) -> torch.Tensor:
        """The level of each weight, (weights,) float32."""
        codes, pairs = self.codes.int(), _pairs(self.device)
        if torch.compiler.is_compiling():
            levels = F.embedding(codes, pairs)
        else:  # both levels of a pair move as one number of 8 bytes, in a third of the time
            levels = pairs.view(torch.float64)[:, 0].index_select(0, codes).view(torch.float32)
        return levels.view(-1)[: self.numel()]


def quantize_int8(weight: torch.Tensor) -> Int8Weight:
    """W (out, in) in 8 bits a weight and a float32 scale a row.

    Raises:
        InputError: no floating-point numbers, or none at all.
    """
    return Int8Weight(weight)


def quantize_nf4(weight: torch.Tensor, block: int = 64, double: bool = False) -> NF4Weight:
    """W in 4 bits a weight, and a scale for every `block` of them.

    Args:
        weight: of any shape; in the orientation in which it is to be used, see above.
        block: weights that share a scale.
        double: quantise the scales, too.

    Raises:
        InputError: no floating-point numbers, or none at all; a block of none.
    """
    return NF4Weight(weight, block, double)


_PAIRS: dict[torch.device, torch.Tensor] = {}  # made once; to PyTorch's compiler an input


def _pairs(device: torch.device) -> torch.Tensor:
    """What each byte stands for: (256, 2), the level of its high half and that of its low half."""
    if device not in _PAIRS:
        levels = torch.tensor(NF4_LEVELS, device=device)
        _PAIRS[device] = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], dim=1)
    return _PAIRS[device]
