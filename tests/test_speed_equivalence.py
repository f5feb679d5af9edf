"""What makes training fast changes nothing but the time: the same loss curve as the plain path."""

import json
from contextlib import nullcontext

import pytest
import torch
from small import write_base, write_messages

from llm.data.batching import Encoded
from llm.lora.methods import METHODS, LoRASettings, apply_method
from llm.model.attention import causal
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.grouped_attention import attend_in_groups, is_short
from llm.model.groups import LengthGroups
from llm.model.layouts import Packed, PaddedRows
from llm.model.short_attention import short_attention
from llm.training.classification import ClassificationTask
from llm.training.finetuning import FinetuneSettings, finetune
from llm.training.graphs import CUDAGraphSteps, RecordedUpdate
from llm.training.loop import train
from llm.training.settings import TrainSettings
from llm.training.speed import (
    compile_blocks,
    compiled_blocks,
    frozen_in_bfloat16,
    keep_frozen_in_bfloat16,
    recompute_all,
    recompute_cheap,
)
from llm.training.step import make_optimizer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


class PlainClassifier(GPTClassifier):
    """Padded rows, every block on every token, the last real one picked at the very end."""

    def forward(self, ids, lengths):
        return self.head(PaddedRows(lengths).last(self.body.hidden_states(ids))[:, 0])


def task_for(model, width: int = 1) -> ClassificationTask:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 17, (40,), generator=draw).tolist()
    ids = [torch.randint(0, 50, (length,), generator=draw).tolist() for length in lengths]
    messages = Encoded(ids, [sum(row) % 2 for row in ids], 0)
    return ClassificationTask(model, messages, messages, 8, 0, width=width)


def curve(
    method: str,
    change=lambda model: None,
    kind=GPTClassifier,
    device="cpu",
    dtype=torch.float64,
    fast=True,
) -> list[float]:
    """Losses of twelve steps (the fifth batch of an epoch is as long as the others)."""
    torch.manual_seed(0)
    model = kind(GPTConfig(50, 16, 32, 4, 3))
    apply_method(model, method, LoRASettings(rank=3, alpha=6), fast)
    model.to(device, dtype)
    change(model)
    history = train(model, task_for(model), TrainSettings(steps=12, lr=1e-2))
    return [point["loss"] for point in history["curve"]]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_no_padding_and_only_the_last_token_of_the_last_block(method):
    plain = curve(method, kind=PlainClassifier)
    assert plain[0] != pytest.approx(plain[-1], abs=1e-3)  # it does learn
    assert curve(method) == pytest.approx(plain, abs=1e-9)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_padded_rows_as_on_a_gpu(method):
    def pad(model):
        model.packed = False

    assert curve(method, pad) == pytest.approx(curve(method), abs=1e-9)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_attention_among_short_messages_by_products(method, monkeypatch):
    fast = curve(method)
    monkeypatch.setattr(Packed, "_by_products", lambda *_: False)
    assert curve(method) == pytest.approx(fast, abs=1e-12)


@pytest.mark.parametrize("lengths", [[1], [5], [3, 1, 8, 2, 16, 3], [9, 9, 30]])
def test_short_attention_and_its_gradients_are_those_of_each_message_alone(lengths):
    torch.manual_seed(0)
    shape = (1, 2, sum(lengths), 32)
    heads = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    groups = LengthGroups(lengths)
    assert is_short(groups, heads[0])
    assert not is_short(LengthGroups([1000]), torch.empty(1, 2, 1000, 32))
    together = attend_in_groups(*heads, groups)
    alone = torch.cat(
        [causal(*message) for message in zip(*(x.split(lengths, dim=2) for x in heads))], dim=2
    )
    torch.testing.assert_close(together, alone)
    grad = torch.randn(shape, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(x, heads, grad) for x in (together, alone))
    torch.testing.assert_close(ours, theirs)


def test_the_fused_lora_layer():
    assert curve("lora", fast=False) == pytest.approx(curve("lora"), abs=1e-9)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_recomputed_activations(method):
    assert curve(method, recompute_all) == pytest.approx(curve(method), abs=1e-12)


def test_recomputing_keeps_less():
    from llm.training.memory import activation_memory

    def kept(change) -> int:
        torch.manual_seed(0)
        model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3))
        apply_method(model, "lora", LoRASettings(rank=3, alpha=6))
        change(model)
        task = task_for(model)
        return activation_memory(model, lambda: task.loss(model, task.batch(0)))

    assert kept(recompute_all) < 0.3 * kept(lambda model: None)


def test_recomputing_cheap_parts_without_the_compiler_is_refused_rather_than_wrong():
    with pytest.raises(RuntimeError, match="mutated"):
        curve("lora", recompute_cheap)


def test_frozen_weights_in_bfloat16():
    torch.manual_seed(0)
    model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3))
    apply_method(model, "lora", LoRASettings(rank=3, alpha=6))
    keep_frozen_in_bfloat16(model)
    for name, parameter in model.named_parameters():
        expected = torch.float32 if parameter.requires_grad else torch.bfloat16
        assert parameter.dtype == expected, name
    halved = curve("lora", keep_frozen_in_bfloat16, dtype=torch.float32)
    assert halved == pytest.approx(curve("lora"), abs=0.02)  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("multiple", [4, 16])
def test_batches_of_few_shapes(multiple):
    """Padding to a multiple of so many tokens, which recording wants, changes no loss."""
    torch.manual_seed(0)
    model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3)).double()
    usual, wide = task_for(model), task_for(model, multiple)
    for step in range(5):
        batch = wide.batch(step).batch
        assert batch.ids.shape[1] % multiple == 0
        torch.testing.assert_close(
            wide.loss(model, wide.batch(step)),
            usual.loss(model, usual.batch(step)),
            atol=1e-12,
            rtol=0,
        )


@needs_gpu
@pytest.mark.parametrize("method", ["full", "lora"])
def test_recorded_steps_and_compiled_blocks(method):
    def run(record: bool, compiled: bool, recompute=lambda model: None) -> list[float]:
        torch.compiler.reset()
        torch.manual_seed(0)
        model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3))
        apply_method(model, method, LoRASettings(rank=3, alpha=6))
        model.to("cuda")
        recompute(model)
        if compiled:
            compile_blocks(model)
        task = task_for(model, 8)
        history = train(model, task, TrainSettings(steps=12, lr=1e-2, cuda_graphs=record))
        return [point["loss"] for point in history["curve"]]

    plain = run(False, False)
    assert run(True, False) == pytest.approx(plain, abs=1e-5)
    assert run(True, True) == pytest.approx(plain, abs=1e-4)
    assert run(True, True, recompute_cheap) == pytest.approx(plain, abs=1e-4)


@needs_gpu
def test_a_recorded_step_takes_each_new_batch():
    weight = torch.nn.Parameter(torch.ones(3, device="cuda"))
    recorded = CUDAGraphSteps(lambda batch: (weight * batch[0]).sum() * batch[1], [weight])
    for factor in (1.0, 2.0, 1.0):  # the second recording must leave the first as it was
        for _ in range(2):
            x = torch.rand(3, device="cuda")
            assert recorded((x, factor)).item() == pytest.approx((x.sum() * factor).item())
            torch.testing.assert_close(weight.grad, x * factor)
    assert len(recorded.recorded) == 2


def test_frozen_weights_come_back_from_bfloat16():
    torch.manual_seed(0)
    model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3))
    apply_method(model, "lora", LoRASettings(rank=3, alpha=6))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with frozen_in_bfloat16(model):
        train(model, task_for(model), TrainSettings(steps=3, lr=1e-2))
        assert model.body.tok_emb.weight.dtype == torch.bfloat16
    for name, tensor in model.state_dict().items():
        trained = name.startswith("head.") or ".lora." in name
        assert torch.equal(tensor, before[name]) != trained, name


def test_a_frozen_weight_that_changed_is_noticed():
    model = GPTClassifier(GPTConfig(50, 16, 32, 4, 3)).requires_grad_(False)
    with pytest.raises(RuntimeError, match="frozen"), frozen_in_bfloat16(model):
        model.body.final_norm.shift.add_(1)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_finetuning_on_a_gpu_ends_as_on_a_cpu(method, precision, tmp_path):
    """Recorded steps, padded batches, frozen weights in bfloat16: the same run to rounding."""
    base = write_base(tmp_path / "base")
    messages = write_messages(tmp_path / "messages.tsv")
    settings = FinetuneSettings(
        method,
        LoRASettings(2, 4),
        model=str(base),
        data=str(messages),
        epochs=3,
        batch_size=8,
        lr=0.01,
        precision=precision,
    )
    losses = {}
    for device in ("cuda", "cpu"):
        out = tmp_path / device
        assert finetune(settings, out, device=device).results["base_unchanged"] == (
            method in ("head", "lora")
        )
        history = json.loads((out / "history.json").read_text())
        losses[device] = [point["loss"] for point in history["curve"]]
    tolerance = {"fp32": 1e-3, "bf16": 0.05}[precision]
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=tolerance)


@needs_gpu
def test_finetuning_with_compiled_blocks_is_the_same_run(tmp_path):
    base = write_base(tmp_path / "base")
    messages = write_messages(tmp_path / "messages.tsv")
    settings = FinetuneSettings(
        lora=LoRASettings(2, 4), model=str(base), data=str(messages), batch_size=8, lr=0.01
    )
    losses = []
    for compiled in (False, True):
        finetune(settings, tmp_path / str(compiled), device="cuda", compiled=compiled)
        history = json.loads((tmp_path / str(compiled) / "history.json").read_text())
        losses.append([point["loss"] for point in history["curve"]])
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@needs_gpu
def test_dropout_does_not_depend_on_what_was_recorded_when():
    """A resumed run records anew, and has to draw what the unbroken one drew."""
    weight = torch.nn.Parameter(torch.ones(1000, device="cuda"))
    recorded = CUDAGraphSteps(lambda x: torch.dropout(weight * x, 0.5, True).sum(), [weight])
    losses = []
    for _ in range(3):
        torch.manual_seed(5)
        losses.append(recorded(torch.ones(1000, device="cuda")).item())
    assert losses[0] == losses[1] == losses[2]


@needs_gpu
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_recorded_update_is_adamws(clip_norm):
    def weights(record: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4, device="cuda")
        settings = TrainSettings(steps=9, lr=0.1, clip_norm=clip_norm)
        optimizer = make_optimizer(model, settings)
        parameters = list(model.parameters())
        kept = [torch.empty_like(parameter) for parameter in parameters]
        update = RecordedUpdate(optimizer, parameters, clip_norm) if record else None
        for step in range(6):
            for parameter, gradient in zip(parameters, kept):
                gradient.copy_(torch.randn_like(parameter))
                parameter.grad = gradient
            if update:
                update(0.1 / (step + 1))
                continue
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            optimizer.step()
        return parameters

    for recorded, plain in zip(weights(True), weights(False)):
        torch.testing.assert_close(recorded, plain)


@needs_gpu
@pytest.mark.parametrize("tokens", [1, 20, 96, 128])
def test_attention_of_short_rows(tokens):
    heads, dim = 3, 64
    draw = torch.Generator("cuda").manual_seed(0)
    shapes = {"device": "cuda", "generator": draw, "dtype": torch.bfloat16}
    qkv = torch.randn(4, tokens, 3 * heads * dim, **shapes).requires_grad_()
    grad = torch.randn(4, tokens, heads * dim, **shapes)
    found = short_attention(qkv, heads)
    found.backward(grad)
    exact = qkv.detach().float().requires_grad_()
    parts = exact.unflatten(-1, (3, heads, dim)).permute(2, 0, 3, 1, 4)  # three of one shape
    expected = causal(*parts).transpose(1, 2).flatten(2)
    expected.backward(grad.float())
    for ours, right in ((found, expected), (qkv.grad, exact.grad)):
        torch.testing.assert_close(ours.float(), right, atol=0.03, rtol=0.03)


@needs_gpu
def test_compiled_blocks_in_bfloat16_are_the_plain_layers_to_rounding():
    """With room for A and B, and the attention of short rows: heads of 32 numbers."""

    def losses(compiled: bool) -> list[float]:
        torch.compiler.reset()
        torch.manual_seed(0)
        model = GPTClassifier(GPTConfig(50, 16, 64, 2, 3))
        apply_method(model, "lora", LoRASettings(rank=4, alpha=12))
        model.to("cuda")
        keep_frozen_in_bfloat16(model)
        settings = TrainSettings(steps=12, lr=1e-2, precision="bf16", cuda_graphs=compiled)
        with compiled_blocks(model) if compiled else nullcontext():
            history = train(model, task_for(model, 16), settings)
        return [point["loss"] for point in history["curve"]]

    assert losses(True) == pytest.approx(losses(False), abs=0.05)
