import math
import os
import signal
import threading

import pytest
import torch
import torch.nn.functional as F

from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.model.parameters import trainable_state
from llm.training.checkpoint import CHECKPOINT
from llm.training.classification import ClassificationTask
from llm.training.loop import learning_rate, train
from llm.training.settings import TrainSettings
from llm.training.step import make_optimizer
from llm.utils.errors import InputError


def build(config, messages, method="full", seed=0):
    torch.manual_seed(seed)
    model = GPTClassifier(config)
    start = apply_method(model, method)
    task = ClassificationTask(model, messages, messages, batch_size=8, seed=seed, start=start)
    return model, task


def settings(**changes):
    return TrainSettings(**{"steps": 15, "lr": 3e-3, "evaluate_every": 5, **changes})


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_learning_rate_rises_linearly_then_falls_as_a_cosine():
    plan = TrainSettings(steps=110, lr=1.0, warmup_share=10 / 110, final_lr_share=0.1)
    rates = [learning_rate(plan, step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    for step in range(10, 110):
        expected = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 10) / 100))
        assert rates[step] == pytest.approx(expected)


def test_the_loop_makes_the_steps_of_a_plain_pytorch_loop(tiny, messages):
    """The same weights as AdamW in five lines over the mean loss of whole, padded batches."""
    model, task = build(tiny, messages)
    reference, _ = build(tiny, messages)
    plan = settings(evaluate_every=0, clip_norm=0.5)
    train(model, task, plan)

    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in reference.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in reference.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ]
    )
    for step in range(15):
        ids, lengths, labels = task.batch(step).batch
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        F.cross_entropy(reference(ids, lengths), labels).backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(trainable_state(model)[name], parameter, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["head", "last_block"])
def test_the_frozen_prefix_changes_nothing(tiny, messages, method):
    """Training on stored hidden states ends where training through the whole body ends."""
    with_prefix, task = build(tiny, messages, method)
    assert task.start > 0
    without, _ = build(tiny, messages, method)
    plain = ClassificationTask(without, messages, messages, batch_size=8, seed=0)
    first = train(with_prefix, task, settings())
    second = train(without, plain, settings())
    losses = [[point["loss"] for point in h["curve"]] for h in (first, second)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    for name, value in trainable_state(without).items():
        torch.testing.assert_close(trainable_state(with_prefix)[name], value, atol=2e-5, rtol=1e-4)


def test_accumulating_parts_is_the_whole_batch(tiny, messages):
    whole, task = build(tiny, messages)
    parts, _ = build(tiny, messages)
    curves = [
        train(whole, task, settings())["curve"],
        train(parts, task, settings(accumulate=3))["curve"],
    ]
    losses = [[point["loss"] for point in curve] for curve in curves]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.parametrize("method", ["full", "lora", "head"])
def test_a_resumed_run_ends_bit_for_bit_like_an_unbroken_one(tiny, messages, method, tmp_path):
    unbroken, task = build(tiny, messages, method)
    history = train(unbroken, task, settings(), tmp_path / "a")

    class Stop(Exception):
        pass

    class Breaking(ClassificationTask):
        def batch(self, step, micro_batch=0, micro_batches=1):
            if step == 12:
                raise Stop
            return super().batch(step, micro_batch, micro_batches)

    broken, _ = build(tiny, messages, method)
    task.__class__ = Breaking
    with pytest.raises(Stop):
        train(broken, task, settings(), tmp_path / "b")
    task.__class__ = ClassificationTask
    fresh, task = build(tiny, messages, method)
    resumed = train(fresh, task, settings(), tmp_path / "b", resume=True)
    assert same(trainable_state(fresh), trainable_state(unbroken))
    assert resumed["curve"] == history["curve"]
    assert resumed["evaluations"] == history["evaluations"]


def test_the_best_weights_on_validation_are_kept(tiny, messages):
    model, task = build(tiny, messages)
    scores = iter([[0.2], [0.9], [0.4]])
    seen = []

    def evaluate(current):
        seen.append({name: p.clone() for name, p in trainable_state(current).items()})
        return {"score": next(scores)}

    task.evaluate = evaluate
    history = train(model, task, settings())
    assert history["best_step"] == 10
    assert same(trainable_state(model), seen[1])


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(tiny, messages, tmp_path):
    model, task = build(tiny, messages)
    loss = task.loss
    task.loss = lambda m, batch: loss(m, batch) * (math.nan if task.now >= 7 else 1)
    batch = task.batch

    def counted(step, part=0, parts=1):
        task.now = step
        return batch(step, part, parts)

    task.batch = counted
    with pytest.raises(InputError, match=r"nan at step 8 .*try a lower learning rate"):
        train(model, task, settings(), tmp_path)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    again, task = build(tiny, messages)
    assert len(train(again, task, settings(), tmp_path, resume=True)["curve"]) == 15


def test_ctrl_c_ends_after_the_step_with_a_checkpoint(tiny, messages, tmp_path):
    unbroken, task = build(tiny, messages)
    train(unbroken, task, settings())
    model, task = build(tiny, messages)
    batch = task.batch

    def pressing(step, part=0, parts=1):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return batch(step, part, parts)

    task.batch = pressing
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(KeyboardInterrupt):
        train(model, task, settings(), tmp_path)
    fresh, task = build(tiny, messages)
    assert len(train(fresh, task, settings(), tmp_path, resume=True)["curve"]) == 15
    assert same(trainable_state(fresh), trainable_state(unbroken))


def test_a_checkpoint_of_other_settings_is_refused_by_name(tiny, messages, tmp_path):
    model, task = build(tiny, messages)
    train(model, task, settings(), tmp_path)
    with pytest.raises(InputError, match=r"lr \(0.003, not 0.001\)"):
        train(model, task, settings(lr=1e-3), tmp_path, resume=True)
    with pytest.raises(InputError, match="method"):
        train(model, task, settings(), tmp_path, resume=True, identity={"method": "x"})


def test_a_damaged_checkpoint_is_refused_and_the_model_left_alone(tiny, messages, tmp_path):
    model, task = build(tiny, messages)
    train(model, task, settings(), tmp_path)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-50])
    fresh, task = build(tiny, messages)
    before = {name: p.clone() for name, p in trainable_state(fresh).items()}
    with pytest.raises(InputError, match="not a whole safetensors file"):
        train(fresh, task, settings(), tmp_path, resume=True)
    assert same(trainable_state(fresh), before)


def test_decay_is_for_matrices_alone_and_only_the_trainable_is_optimised(tiny):
    model = GPTClassifier(tiny)
    apply_method(model, "last_block")
    groups = make_optimizer(model, settings(weight_decay=0.3)).param_groups
    for group in groups:
        for parameter in group["params"]:
            assert parameter.requires_grad
            assert group["weight_decay"] == (0.3 if parameter.dim() > 1 else 0.0)
    count = sum(p.numel() for group in groups for p in group["params"])
    assert count == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"accumulate": 0}, "at least 1"),
        ({"lr": -1.0}, "positive number, not -1.0"),
        ({"lr": math.nan}, "positive number, not nan"),
    ],
)
def test_bad_settings_are_input_errors(bad, message):
    with pytest.raises(InputError, match=message):
        settings(**bad)
