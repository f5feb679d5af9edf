"""PiSSA: peft's start to the last bit, the same training, and plain LoRA of twice the rank."""

import copy
import math

import pytest
import torch
from small import write_adapter, write_base, write_messages
from test_cli import refused, run
from test_lora import IDS, LENGTHS, TwoLinears, classifier, loss_of, snapshot
from twins import TINY

from llm.formats.finetuned import base_state, load_finetuned
from llm.formats.peft_export import export_peft
from llm.formats.peft_import import import_peft
from llm.formats.record import RunRecord, read_record
from llm.inference.adapters import Adapters
from llm.lora.fused import fuse
from llm.lora.inject import lora_layers, merge_and_unload, replace_linear_with_lora
from llm.lora.layer import LoRALayer
from llm.lora.pissa import PiSSALayer, as_plain_lora, principal_factors
from llm.lora.settings import LoRASettings
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import read_tensors

PISSA = {"rank": 3, "alpha": 5, "init": "pissa"}


def trained(model, loss, steps=4):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return model


def test_the_principal_part_is_the_nearest_matrix_of_its_rank():
    """Eckart and Young 1936: what is left over has the other singular values."""
    W = torch.randn(9, 7, dtype=torch.float64)
    A, B = principal_factors(W, rank=3, scale=2.5)
    left = W - 2.5 * (A @ B).T
    values = torch.linalg.svdvals(W)
    torch.testing.assert_close(torch.linalg.svdvals(left)[:4], values[3:], atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.svdvals((A @ B).T)[:3], values[:3] / 2.5)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("targets", [["W_query", "W_key", "W_value", "fc1"], ["fc2"]], ids=str)
def test_the_start_changes_no_answer_and_training_no_w(fast, targets):
    model = classifier()
    with torch.no_grad():
        before, base = model(IDS, LENGTHS), snapshot(model.body)
    replace_linear_with_lora(model, **PISSA, targets=targets)
    if fast:
        fuse(model)
        torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-5, rtol=1e-5)
    else:
        with torch.no_grad():
            assert torch.equal(model(IDS, LENGTHS), before)  # x A B - x A B is 0
    first = loss_of(model).item()
    assert loss_of(trained(model, loss_of)).item() < first
    for name, tensor in base_state(model.body).items():
        assert torch.equal(tensor, base[name]), name
    for layer in lora_layers(model).values():
        assert not torch.equal(layer.lora.A, layer.lora.A0)


# --- peft as the judge ---


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_start_training_and_conversion_equal_pefts(tmp_path, rslora, dropout):
    """peft takes the principal part out of W, and adds it again when it saves plain LoRA."""
    from peft import LoraConfig, get_peft_model

    ours, theirs = TwoLinears(), TwoLinears()
    theirs.load_state_dict(ours.state_dict())
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["fc1", "fc2"], use_rslora=rslora,
        init_lora_weights="pissa", lora_dropout=dropout,
    )  # fmt: skip
    theirs = get_peft_model(theirs, config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    settings = LoRASettings(**PISSA, targets=["fc1", "fc2"], rslora=rslora, dropout=dropout)
    base = snapshot(ours)
    replace_linear_with_lora(
        ours, **PISSA, targets=settings.targets, rslora=rslora, dropout=dropout
    )
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        assert torch.equal(layer.lora.A.T, twin.lora_A["default"].weight)
        assert torch.equal(layer.lora.B.T, twin.lora_B["default"].weight)

    x = torch.randn(2, 5, 6)
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(7)  # of the dropout
        trained(model, lambda model: (model(x) - 1).square().sum())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=2e-5, rtol=1e-4)

    theirs.save_pretrained(
        tmp_path / "out", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    converted, _ = read_tensors(tmp_path / "out" / "adapter_model.safetensors")
    answers = ours(x)
    plain = as_plain_lora(ours, settings)
    assert (plain.rank, plain.init) == (6, "default")
    assert plain.alpha == pytest.approx(5 * (math.sqrt(2) if rslora else 2))
    torch.testing.assert_close(ours(x), answers, atol=1e-5, rtol=1e-5)
    for name, layer in lora_layers(ours).items():
        assert type(layer.lora) is LoRALayer
        assert (layer.lora.rank, layer.lora.A.shape[1], layer.lora.alpha) == (6, 6, plain.alpha)
        for key, mine in (("A", layer.lora.A), ("B", layer.lora.B)):
            other = converted[f"base_model.model.{name}.lora_{key}.weight"]
            torch.testing.assert_close(mine.T, other, atol=2e-5, rtol=1e-4)
        assert torch.equal(layer.linear.weight, base[f"{name}.weight"])
    merge_and_unload(ours)
    torch.testing.assert_close(ours(x), answers, atol=1e-5, rtol=1e-5)


def test_the_form_in_use_equals_the_form_to_read():
    plain = classifier(torch.float64)
    replace_linear_with_lora(plain, **PISSA)
    trained(plain, loss_of, steps=1)
    fast = copy.deepcopy(plain)
    fuse(fast)
    for model in (plain, fast):
        model.zero_grad()
        loss_of(model).backward()
    torch.testing.assert_close(fast(IDS, LENGTHS), plain(IDS, LENGTHS), atol=1e-12, rtol=0)
    for (name, p), (_, q) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad, name
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-10, rtol=0)


# --- folders ---


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pissa")
    base = write_base(folder / "base")
    messages = write_messages(folder / "messages.tsv")
    write_adapter(folder / "pissa", base, messages, init="pissa", rslora=True)
    write_adapter(folder / "other", base, messages, task="question")
    return folder


def test_the_folder_is_plain_lora_of_twice_the_rank(place, tmp_path):
    model, _, record = load_finetuned(place / "pissa")
    assert record.lora.rank == 4 and record.lora.alpha == pytest.approx(4 * math.sqrt(2))
    assert record.lora.init == "default"
    assert record.settings["lora"]["init"] == "pissa"  # what was asked for
    assert record.results["base_unchanged"] and record.results["rank"] == 2
    assert all(type(layer.lora) is LoRALayer for layer in lora_layers(model).values())
    adapters = Adapters.load({"pissa": place / "pissa", "other": place / "other"})
    texts = ["WIN a free prize, call now!", "see you at beta tonight?"]
    mixed = adapters.classify_mixed(texts * 2, ["pissa"] * 2 + ["other"] * 2)
    adapters.use("pissa")
    torch.testing.assert_close(adapters.classify(texts), mixed[:2], atol=1e-5, rtol=0)


def test_it_goes_to_peft_and_back(tmp_path):
    model = classifier()
    replace_linear_with_lora(model, **PISSA)
    trained(model, loss_of, steps=2)
    export_peft(model, tmp_path, "base")
    again = classifier()
    settings = import_peft(again, tmp_path)
    assert (settings["rank"], settings["alpha"]) == (6, 10)
    torch.testing.assert_close(again(IDS, LENGTHS), model(IDS, LENGTHS), atol=1e-5, rtol=1e-5)


def test_what_does_not_go_is_one_line(place, tmp_path):
    model = classifier()
    before = snapshot(model)
    with pytest.raises(InputError, match="pissa at rank 3: head has 2 singular values only"):
        replace_linear_with_lora(model, **PISSA, targets="all")
    assert not lora_layers(model) and snapshot(model).keys() == before.keys()
    for change, message in (({"init": "olora"}, "default or pissa"), ({"variant": "dora"}, "DoRA")):
        with pytest.raises(InputError, match=message):
            FinetuneSettings(lora=LoRASettings(**{"init": "pissa"} | change))
    refused(run("info", "--init", "pissa", "--method", "dora"), "pissa", "(--init, --variant)")
    about = read_record(place / "pissa").to_dict()
    with pytest.raises(InputError, match="stored as plain LoRA"):
        RunRecord.from_dict({**about, "lora": {**about["lora"], "init": "pissa"}})


def test_info_counts_the_frozen_copies_as_weights():
    with torch.device("meta"):
        layer = PiSSALayer(torch.empty(TINY.emb_dim, 2 * TINY.emb_dim), 4, 8, 0.0, False)
    assert sum(p.numel() for p in layer.parameters()) == 3 * TINY.emb_dim * 4
    assert sum(b.numel() for b in layer.buffers()) == 3 * TINY.emb_dim * 4
