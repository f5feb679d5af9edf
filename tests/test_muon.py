"""Muon: torch.optim.Muon's steps, for the matrices of the blocks alone; a run can be resumed."""

import pytest
import torch

from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.model.parameters import trainable_state
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.muon import Muon, orthogonal
from llm.training.settings import TrainSettings
from llm.training.step import make_optimizer
from llm.utils.errors import InputError

MUON = TrainSettings(
    steps=15, lr=3e-3, optimizer="muon", weight_decay=0.2, beta2=0.95, evaluate_every=5
)


@pytest.mark.parametrize("shape", [(24, 24), (16, 64), (64, 16)])
def test_its_steps_are_those_of_torch(shape):
    """Bit for bit: the momentum, the iteration, the size of a step and the weight decay."""
    ours = torch.nn.Parameter(torch.randn(shape))
    theirs = torch.nn.Parameter(ours.detach().clone())
    first = Muon([{"params": [ours], "orthogonal": True}], lr=0.02, weight_decay=0.2)
    second = torch.optim.Muon(
        [theirs], lr=0.02, weight_decay=0.2, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    start = ours.detach().clone()
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
        assert torch.equal(ours, theirs)
    assert not torch.equal(ours, start)


def test_matrices_of_a_shape_are_worked_on_together_but_do_not_mix():
    """Two at once take the steps that each takes alone, up to the order of sums in bfloat16."""
    matrices = torch.randn(2, 24, 48)
    together = orthogonal(matrices)
    for matrix, found in zip(matrices, together):
        torch.testing.assert_close(found, orthogonal(matrix[None])[0], atol=0.02, rtol=0)
    values = torch.linalg.svdvals(together.float())
    assert values.min() > 0.6 and values.max() < 1.3  # near the 1 of an orthogonal matrix


def test_only_the_matrices_of_the_blocks_are_orthogonal(tiny):
    """Embeddings, biases and LayerNorms take AdamW's steps; the latter two without decay."""
    model = GPTModel(tiny)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, MUON).param_groups
    matrices, tables, rest = ([names[p] for p in group["params"]] for group in groups)
    assert [group["orthogonal"] for group in groups] == [True, False, False]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.2, 0.0]
    assert tables == ["tok_emb.weight", "pos_emb.weight"]
    assert len(matrices) == 6 * tiny.n_layers
    assert all("trf_blocks" in name and name.endswith(".weight") for name in matrices)
    assert set(rest) == set(names.values()) - set(matrices) - set(tables)


def test_what_is_not_orthogonal_takes_the_steps_of_adamw(tiny):
    muon, adamw = GPTModel(tiny), GPTModel(tiny)
    adamw.load_state_dict(muon.state_dict())
    ids = torch.randint(tiny.vocab_size, (4, 8))
    for model, name in ((muon, "muon"), (adamw, "adamw")):
        optimizer = make_optimizer(model, TrainSettings(steps=1, lr=1e-2, optimizer=name))
        model(ids).square().mean().backward()
        optimizer.step()
    for (name, one), other in zip(muon.named_parameters(), adamw.parameters()):
        is_matrix_of_a_block = "trf_blocks" in name and one.dim() == 2
        assert torch.equal(one, other) is not is_matrix_of_a_block, name


def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(tiny, messages, tmp_path):
    class Stop(Exception):
        pass

    class Breaking(ClassificationTask):
        def batch(self, step, micro_batch=0, micro_batches=1):
            if step == 12:
                raise Stop
            return super().batch(step, micro_batch, micro_batches)

    def run(kind, folder, resume=False):
        torch.manual_seed(0)
        model = GPTClassifier(tiny)
        task = kind(model, messages, messages, batch_size=8, seed=0)
        history = train(model, task, MUON, tmp_path / folder, resume=resume)
        return trainable_state(model), history

    whole, history = run(ClassificationTask, "whole")
    with pytest.raises(Stop):
        run(Breaking, "broken")
    resumed, again = run(ClassificationTask, "broken", resume=True)
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert again["curve"] == history["curve"]


def test_another_optimizer_is_refused():
    with pytest.raises(InputError, match="optimizer must be adamw or muon, not 'sgd'"):
        TrainSettings(steps=1, lr=1e-3, optimizer="sgd")
