"""Quantised matrices against those of bitsandbytes, bit for bit, and small cases by hand.

Two things about bitsandbytes 0.50 on a CPU: where a matrix has an odd number of columns it runs
PyTorch's compiler, which takes seconds a shape and is turned off here; and where that number is a
multiple of 32, not of 64, `dequantize_4bit` may take a neighbouring block's scale (on AVX-512: an
error of 0.2 in place of 0.09). It is therefore given the matrix as one long row.
"""

import pytest
import torch

from llm.lora import double_quantization
from llm.lora.double_quantization import DoubleQuantized, dynamic_levels, nearest
from llm.lora.quantize import NF4_LEVELS, normal_levels, quantize_int8, quantize_nf4
from llm.utils.errors import InputError

bnb = pytest.importorskip("bitsandbytes.functional")

SHAPES = [
    (64, 64),
    (3, 5),
    (1, 1),
    (7, 129),
    (130, 33),
    (63,),
    (64,),
    (65,),
    (2, 3, 32),
    (10, 96),
    (96, 256),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LEVELS = torch.tensor(NF4_LEVELS)


def numbers(shape, dtype=torch.float32, seed: int = 0) -> torch.Tensor:
    return (0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def theirs(weight: torch.Tensor, block: int = 64, double: bool = False):
    return bnb.quantize_4bit(weight, blocksize=block, quant_type="nf4", compress_statistics=double)


@pytest.fixture(autouse=True)
def without_the_compiler():
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def dequantized(packed: torch.Tensor, state) -> torch.Tensor:
    """By bitsandbytes, from one long row."""
    shape, state.shape = state.shape, torch.Size([state.shape.numel()])
    return bnb.dequantize_4bit(packed, state).view(shape)


def test_the_levels_are_quantiles_of_the_normal_distribution():
    assert torch.equal(normal_levels(), LEVELS)
    assert torch.equal(bnb.get_4bit_type("nf4", device="cpu")[:16], LEVELS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_that_of_bitsandbytes_bit_for_bit(shape, dtype):
    weight = numbers(shape, dtype)
    packed, state = theirs(weight)
    ours = quantize_nf4(weight)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.block_scales(), state.absmax)
    back = ours.dequantize()
    assert back.dtype == dtype and back.shape == weight.shape
    assert torch.equal(back, dequantized(packed, state))


@pytest.mark.parametrize("block", [32, 128, 4096])
def test_blocks_of_other_sizes_too(block):
    weight = numbers((70, 90))
    packed, state = theirs(weight, block)
    ours = quantize_nf4(weight, block)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.dequantize(), dequantized(packed, state))


@pytest.mark.parametrize("shape", [(4, 64), (5, 13)])
def test_a_block_of_zeros_stays_zero(shape):
    weight = numbers(shape)
    weight.view(-1)[-1:] = 0
    weight.view(-1)[64:] = 0  # of the second shape that is the short last block
    packed, state = theirs(weight)
    ours = quantize_nf4(weight)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.block_scales(), state.absmax)
    assert not ours.dequantize().view(-1)[64:].any()
    assert ours.codes[-1] == 0x77  # twice the level zero


def test_ties_go_to_the_lower_level():
    """Each middle of two levels, in a block whose scale is 1."""
    middles = (LEVELS[:-1] + LEVELS[1:]) / 2
    weight = torch.cat([middles, torch.ones(49)])
    ours = quantize_nf4(weight)
    assert torch.equal(ours.codes, theirs(weight)[0].flatten())
    assert torch.equal(ours.dequantize()[:15], LEVELS[:-1])


def test_a_block_by_hand():
    ours = quantize_nf4(torch.tensor([0.10, -0.40, 0.06]))
    assert ours.codes.tolist() == [10 << 4 | 0, 9 << 4 | 7]  # the last half is the level zero
    expected = torch.tensor([0.40 * NF4_LEVELS[10], -0.40, 0.40 * NF4_LEVELS[9]])
    torch.testing.assert_close(ours.dequantize(), expected)


def test_a_level_is_its_own_code():
    assert torch.equal(quantize_nf4(LEVELS.repeat(4)).dequantize(), LEVELS.repeat(4))
    assert torch.equal(nearest(LEVELS, LEVELS), torch.arange(16, dtype=torch.uint8))


def test_the_result_depends_on_the_orientation():
    weight = numbers((64, 128))
    across = quantize_nf4(weight.T).dequantize().T
    assert not torch.equal(across, quantize_nf4(weight).dequantize())
    packed, state = theirs(weight.T.contiguous())
    assert torch.equal(across, dequantized(packed, state).T)


def test_quantising_a_view_is_quantising_what_it_shows():
    weight = numbers((96, 64))
    assert torch.equal(quantize_nf4(weight.T).codes, quantize_nf4(weight.T.contiguous()).codes)


def test_the_levels_of_the_scales_are_those_of_bitsandbytes():
    assert torch.equal(dynamic_levels(torch.device("cpu")), bnb.create_dynamic_map())


def by_table(x: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The rule of bitsandbytes on a CPU: the level nearest to the nearest of 65,536 numbers."""
    middles = (levels[:-1] + levels[1:]) / 2
    table = torch.bucketize(-1 + 2 * torch.arange(65536) / 65535, middles).to(torch.uint8)
    return table[((x + 1) * 0.5 * 65535 + 0.5).int()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(768, 256), (50, 77), (2, 64), (256, 130)])
def test_double_quantisation_is_that_of_bitsandbytes_but_for_the_rule(shape, dtype, monkeypatch):
    """With the CPU's rule in place of ours every bit is the same."""
    weight = numbers(shape, dtype)
    packed, state = theirs(weight, double=True)
    monkeypatch.setattr(double_quantization, "nearest", by_table)
    ours = quantize_nf4(weight, double=True)
    assert torch.equal(ours.codes, packed.flatten())
    assert torch.equal(ours.scales.codes, state.absmax)
    assert torch.equal(ours.scales.scales, state.state2.absmax)
    assert torch.equal(ours.scales.offset, state.offset)
    assert torch.equal(ours.dequantize(), dequantized(packed, state))


def test_the_two_rules_differ_for_few_scales_and_by_little():
    weight = numbers((1536, 1024))
    packed, state = theirs(weight, double=True)
    ours = quantize_nf4(weight, double=True)
    assert torch.equal(ours.codes, packed.flatten())
    assert (ours.scales.codes != state.absmax).float().mean() < 0.005
    error = (ours.dequantize() - dequantized(packed, state)).norm() / weight.norm()
    assert error < 1e-3  # the error of four bits is 0.09


def test_bits_per_weight_by_hand():
    weight = numbers((512, 512))
    assert quantize_nf4(weight).bits_per_weight == 4 + 32 / 64
    offset = 32 / weight.numel()
    expected = 4 + 8 / 64 + 32 / (64 * 256) + offset
    assert quantize_nf4(weight, double=True).bits_per_weight == pytest.approx(expected)
    assert round(expected, 3) == 4.127
    assert quantize_int8(weight).bits_per_weight == 8 + 32 / 512
    assert quantize_int8(weight).nbytes == 512 * 512 + 4 * 512


def test_four_bits_lose_nine_per_cent_of_normal_numbers_and_eight_half_a_step_at_most():
    weight = numbers((512, 512))
    for double in (False, True):
        error = quantize_nf4(weight, double=double).dequantize() - weight
        assert error.norm() / weight.norm() == pytest.approx(0.092, rel=0.01)
    eight = quantize_int8(weight)
    half_a_step = eight.scales[:, None] / 254
    assert ((eight.dequantize() - weight).abs() <= 1.001 * half_a_step).all()


def test_a_fused_layer_is_its_parts_until_its_scales_are_quantised():
    parts = [numbers((64, 64), seed=seed) * (1 + seed) for seed in range(3)]
    for double, same in ((False, True), (True, False)):
        fused = quantize_nf4(torch.cat(parts), double=double).dequantize()
        apart = torch.cat([quantize_nf4(part, double=double).dequantize() for part in parts])
        assert torch.equal(fused, apart) == same


def test_equal_scales_are_all_offset():
    """Nothing is left when their mean is taken off: the second scale is zero."""
    scales = torch.full((300,), 0.25)
    assert torch.equal(DoubleQuantized(scales)(), scales)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_is_that_of_bitsandbytes(dtype):
    weight = numbers((33, 70), dtype)
    codes, scales, _ = bnb.int8_vectorwise_quant(weight)
    ours = quantize_int8(weight)
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.scales, scales)
    assert torch.equal(ours.dequantize(), bnb.int8_vectorwise_dequant(codes, scales).to(dtype))


def test_int8_by_hand_with_a_row_of_zeros():
    ours = quantize_int8(torch.tensor([[1.0, -0.5, 0.25], [0.0, 0.0, 0.0]]))
    assert ours.codes.tolist() == [[127, -64, 32], [0, 0, 0]]  # -63.5 and 31.75, to the even
    assert not ours.dequantize()[1].any()


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_nf4])
def test_what_cannot_be_quantised_is_refused(quantize):
    for weight in (torch.ones(3, 3, dtype=torch.int32), torch.empty(0, 4)):
        with pytest.raises(InputError):
            quantize(weight)


def test_a_block_of_nothing_is_refused():
    for block in (0, -1, 2.5):
        with pytest.raises(InputError):
            quantize_nf4(torch.ones(4), block)


@pytest.mark.parametrize("double", [False, True])
def test_shapes_are_known_without_numbers(double):
    real = quantize_nf4(numbers((48, 31)), double=double)
    meta = quantize_nf4(numbers((48, 31)).to("meta"), double=double)
    found = {name: (b.shape, b.dtype) for name, b in meta.named_buffers()}
    assert found == {name: (b.shape, b.dtype) for name, b in real.named_buffers()}
    assert meta.nbytes == real.nbytes


def test_codes_survive_a_state_dict():
    weight = numbers((48, 31))
    one, other = quantize_nf4(weight, double=True), quantize_nf4(weight * 0, double=True)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.dequantize(), other.dequantize())
