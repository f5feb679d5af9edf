"""When `finetune` compiles by itself: a decision before anything is compiled, without a GPU."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small import write_base, write_messages
from torch import nn

from llm.cli.parser import build_parser
from llm.lora.methods import apply_method
from llm.lora.settings import LoRASettings
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.training.checkpoint import Run
from llm.training.compiling import estimate
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.training.speed import compiled_blocks
from llm.utils.errors import InputError

LORA = FinetuneSettings()


def compiling(shape="gpt2", steps=300, rows=8, width=128, settings=LORA, **others):
    return estimate(PRESETS[shape], settings, steps, [(rows, width)], **others)


def test_a_short_run_of_a_small_model_does_not_compile_and_a_long_one_of_a_large_one_does():
    assert not compiling(steps=300).pays
    assert compiling("gpt2-xl", 3000, 64).pays


@pytest.mark.parametrize(
    "shape, rows, milliseconds", [("gpt2", 8, 5.48 - 3.31), ("gpt2-xl", 64, 163.1 - 120.9)]
)
def test_the_estimate_goes_through_what_was_measured(shape, rows, milliseconds):
    assert compiling(shape, 1000, rows).saves == pytest.approx(milliseconds, rel=0.02)


def test_the_decision_changes_once_with_the_number_of_steps():
    decisions = [compiling(steps=steps).pays for steps in range(1000, 100_000, 1000)]
    assert decisions == sorted(decisions) and {True, False} == set(decisions)


def test_batches_of_several_shapes_cost_more_and_several_processes_save_less():
    one = compiling(steps=1000)
    two = estimate(PRESETS["gpt2"], LORA, 1000, [(8, 96), (8, 160)])
    assert two.costs > one.costs and two.saves == pytest.approx(one.saves)
    assert compiling(steps=1000, processes=4).saves < one.saves


@pytest.mark.parametrize(
    "settings, word",
    [
        (replace(LORA, method="head"), "head"),
        (replace(LORA, lora=LoRASettings(quantize="nf4")), "quantize"),
        (replace(LORA, lora=LoRASettings(dropout=0.1)), "dropout"),
    ],
)
def test_what_was_not_measured_compiled_is_not_compiled_by_itself(settings, word):
    found = compiling("gpt2-xl", 100_000, 64, settings=settings)
    assert not found.pays and word in found.describe(False)


def test_nor_what_may_not_fit():
    assert not compiling("gpt2-xl", 100_000, 64, memory_share=0.8).pays


def test_one_line_says_what_and_how_to_do_the_other():
    found = compiling("gpt2-xl", 3000, 64)
    for compiled, option in ((True, "--no-compile"), (False, "--compile")):
        line = found.describe(compiled)
        assert option in line and "3,000 steps" in line and "\n" not in line


def test_the_option_is_in_the_users_hand():
    command = ["finetune", "--out", "x"]
    said = [
        build_parser().parse_args(command + more).compile
        for more in ([], ["--compile"], ["--no-compile"])
    ]
    assert said == [None, True, False]


def test_a_cpu_says_why_it_does_not(tmp_path):
    base, messages = write_base(tmp_path / "base"), write_messages(tmp_path / "messages.tsv")
    settings = FinetuneSettings(model=str(base), data=str(messages))
    with pytest.raises(InputError, match="CUDA GPU"):
        finetune(settings, tmp_path / "out", device="cpu", compiled=True)


def test_compiled_blocks_are_as_before_afterwards_and_left_out_of_evaluations(monkeypatch):
    compiled = []

    def compile_(self):  # in place of the compiler, which takes half a minute
        self._compiled_call_impl = torch.compile(self._call_impl, backend=backend)

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(nn.Module, "compile", compile_)
    model = GPTClassifier(GPTConfig(50, 16, 16, 2, 1), pool="mean")
    model.packed = False
    ids, lengths = torch.ones(2, 8, dtype=torch.long), torch.tensor([8, 8])
    plain = model(ids, lengths)

    class Task:
        def evaluate(self, model):
            model(ids[:, :5], lengths - 3)
            return {"loss": 0.0}

    with compiled_blocks(model):
        torch.testing.assert_close(model(ids, lengths), plain)
        versions = len(compiled)
        assert versions
        Run(model, None, {}, None).evaluate(Task(), keep_best=False)
        assert len(compiled) == versions
    model(ids[:, :6], lengths - 2)
    assert len(compiled) == versions


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_room_for_a_and_b_changes_no_loss_and_leaves_w_as_it_was(pool, monkeypatch):
    """Traced by the compiler and run without it, in float64."""
    torch.compiler.reset()

    def compile_(self):
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compile_)
    usual = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, backend="eager": usual(f, backend=backend))

    def losses(compiled: bool) -> list[float]:
        torch.manual_seed(0)
        model = GPTClassifier(GPTConfig(50, 16, 16, 2, 3), pool=pool)
        apply_method(model, "lora", LoRASettings(rank=2, alpha=6))
        model.double().packed = False
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        draw = torch.Generator().manual_seed(1)
        ids = torch.randint(50, (4, 16), generator=draw)
        lengths, labels = torch.tensor([16, 9, 12, 3]), torch.tensor([0, 1, 1, 0])
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        found = []
        with compiled_blocks(model) if compiled else nullcontext():
            for _ in range(4):
                loss = F.cross_entropy(model(ids, lengths), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                found.append(loss.item())
        after = model.state_dict()
        assert list(after) == list(before)
        for name, tensor in after.items():
            changed = name.startswith("head.") or ".lora." in name
            assert torch.equal(tensor, before[name]) != changed, name
            assert tensor.is_contiguous()
        return found

    plain = losses(False)
    assert plain[0] - plain[-1] > 1e-3
    assert losses(True) == pytest.approx(plain, abs=1e-12)
