"""DoRA: peft as the judge of every number, and what our other rooms make of its layers."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from small import write_adapter, write_base, write_messages
from test_cli import refused, run
from test_lora import IDS, LENGTHS, TwoLinears, classifier, loss_of, snapshot
from torch import nn

from llm.formats.finetuned import load_finetuned
from llm.formats.record import RunRecord, read_record
from llm.inference.adapters import Adapters
from llm.lora.dora import LinearWithDoRA, row_changes
from llm.lora.fused import fuse
from llm.lora.fused_dora import FusedLinearWithDoRA
from llm.lora.fused_linears import fused_outputs
from llm.lora.inject import (
    lora_layers,
    merge,
    merge_and_unload,
    merged_state,
    replace_linear_with_lora,
    unmerge,
)
from llm.lora.methods import apply_method
from llm.lora.settings import LoRASettings
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError


def adapted(model: nn.Module, **more) -> nn.Module:
    """DoRA layers whose A, B and m are all away from where they start."""
    replace_linear_with_lora(model, **{"rank": 3, "alpha": 5, "variant": "dora"} | more)
    generator = torch.Generator().manual_seed(3)
    for layer in lora_layers(model).values():
        with torch.no_grad():
            for parameter in (layer.lora.B, layer.lora.magnitude):
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
    return model


# --- the promises of LoRA hold ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("packed", [True, False])
def test_fresh_layers_change_no_logit_not_even_by_a_bit(dtype, packed):
    model = classifier(dtype)
    model.packed = packed
    before = model(IDS, LENGTHS)
    replace_linear_with_lora(model, rank=4, alpha=8, targets="all", variant="dora")
    assert all(type(layer) is LinearWithDoRA for layer in lora_layers(model).values())
    assert torch.equal(model(IDS, LENGTHS), before)


def test_training_moves_a_b_and_the_magnitude_and_leaves_the_base_alone():
    model = classifier()
    replace_linear_with_lora(model, rank=4, alpha=8, variant="dora")
    fuse(model)  # as fine-tuning does
    start = snapshot(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    first = loss_of(model).item()
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model).item() < first
    for name, tensor in model.state_dict().items():
        learned = ".lora." in name or name.startswith("head.")
        assert torch.equal(tensor, start[name]) != learned, name


# --- its sums ---


def test_the_equation_by_hand():
    """W = (3, 0) and an update of (0, 4) make V = (3, 4), of length 5; m = 10 doubles it."""
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 0.0]]))
        linear.bias.fill_(0.5)
    layer = LinearWithDoRA(linear, rank=1, alpha=2)
    assert layer.lora.magnitude.item() == 3
    with torch.no_grad():
        layer.lora.A.copy_(torch.tensor([[0.0], [1.0]]))
        layer.lora.B.fill_(2.0)  # times alpha / rank = 2
        layer.lora.magnitude.fill_(10.0)
    assert layer.norm().item() == pytest.approx(5)
    torch.testing.assert_close(layer.merged_weight(), torch.tensor([[6.0, 8.0]]))
    assert layer(torch.tensor([[1.0, 1.0]])).item() == pytest.approx(6 + 8 + 0.5)


def test_the_norm_is_that_of_the_matrix_which_is_never_made():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        for layer in lora_layers(adapted(classifier(dtype))).values():
            V = layer.linear.weight + layer.lora.delta()
            torch.testing.assert_close(layer.norm(), V.norm(dim=1), atol=0, rtol=tolerance)
            assert not layer.norm().requires_grad


def test_a_row_of_zeros_has_no_direction_and_still_an_answer():
    linear = nn.Linear(4, 3)
    nn.init.zeros_(linear.weight)
    layer = LinearWithDoRA(linear, 2, 4)
    x = torch.randn(5, 4, requires_grad=True)
    assert torch.equal(layer(x), linear(x))
    layer(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in (x, *layer.lora.parameters()))


def test_autocast_keeps_the_type_and_comes_near():
    model = adapted(classifier())
    exact = model(IDS, LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(IDS, LENGTHS)
        layer = next(iter(lora_layers(model).values()))
        assert layer(torch.randn(3, 32)).dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), exact, atol=0.02, rtol=0)


# --- peft as the judge ---


def twins(rslora: bool, dropout: float):
    """Ours and peft's, the same numbers, and the pairs of what is trained."""
    from peft import LoraConfig, get_peft_model

    ours, theirs = TwoLinears().double(), TwoLinears().double()
    theirs.load_state_dict(ours.state_dict())
    adapted(ours, targets=["fc1", "fc2"], rslora=rslora, dropout=dropout)
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["fc1", "fc2"], use_rslora=rslora, use_dora=True,
        lora_dropout=dropout,
    )  # fmt: skip
    theirs = get_peft_model(theirs, config, autocast_adapter_dtype=False).double()
    pairs = []
    for name, layer in lora_layers(ours).items():
        twin = theirs.base_model.model.get_submodule(name)
        pairs.append((layer.lora.A, twin.lora_A["default"].weight))
        pairs.append((layer.lora.B, twin.lora_B["default"].weight))
        pairs.append((layer.lora.magnitude, twin.lora_magnitude_vector["default"].weight))
    with torch.no_grad():
        for mine, other in pairs:
            other.copy_(mine.T if mine.dim() == 2 else mine)
    return ours, theirs, pairs


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_gradients_and_merge_equal_pefts(rslora, dropout):
    ours, theirs, pairs = twins(rslora, dropout)
    x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    outputs, gradients = [], []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(7)  # of the dropout
        outputs.append(model(x))
        gradients.append(torch.autograd.grad(outputs[-1].square().sum(), x, retain_graph=True)[0])
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(*outputs, atol=1e-12, rtol=0)
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)
    for mine, other in pairs:
        grad = mine.grad.T if mine.dim() == 2 else mine.grad
        torch.testing.assert_close(grad, other.grad, atol=1e-10, rtol=0)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), atol=1e-12, rtol=0)
    merge_and_unload(ours)
    merged = theirs.merge_and_unload()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, merged.state_dict()[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("packed", "quantize"), [(True, None), (False, None), (True, "nf4"), (False, "int8")]
)
def test_the_form_in_use_equals_the_form_to_read(packed, quantize):
    plain = adapted(classifier(torch.float64), quantize=quantize)
    fast = copy.deepcopy(plain)
    fuse(fast)
    layers = lora_layers(fast).values()
    assert all(type(layer) is FusedLinearWithDoRA and layer.fusible for layer in layers)
    for model in (plain, fast):
        model.packed = packed
        loss_of(model).backward()
    torch.testing.assert_close(fast(IDS, LENGTHS), plain(IDS, LENGTHS), atol=1e-12, rtol=0)
    for (name, p), (_, q) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad, name
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, atol=1e-10, rtol=1e-9)


def test_query_key_and_value_share_the_product_with_their_a(monkeypatch):
    model = adapted(classifier())
    fuse(model)
    made = []

    def noted(layers, x):
        made.append(len(layers))
        return fused_outputs(layers, x)

    monkeypatch.setattr("llm.lora.fused.fused_outputs", noted)
    model.body(IDS)
    assert made == [3] * len(model.body.trf_blocks)


def test_the_form_in_use_changes_nothing_at_first_and_keeps_the_type_under_autocast():
    model = classifier()
    before = model(IDS, LENGTHS)
    replace_linear_with_lora(model, rank=4, alpha=8, variant="dora")
    fuse(model)
    assert torch.equal(model(IDS, LENGTHS), before)
    with torch.autocast("cpu", torch.bfloat16):
        layer = next(iter(lora_layers(model).values()))
        assert layer(torch.randn(3, 32)).dtype == torch.bfloat16
        loss_of(model).backward()
    for layer in lora_layers(model).values():
        assert layer.lora.magnitude.grad.dtype == torch.float32
    bare = LinearWithDoRA(nn.Linear(5, 4, bias=False), 2, 4)
    x = torch.randn(2, 3, 5)
    expected = bare(x)
    bare.linear.requires_grad_(False)
    fuse(bare)
    assert type(bare) is FusedLinearWithDoRA and bare.fusible
    torch.testing.assert_close(bare(x), expected)


# --- merging ---


def test_merging_and_unmerging_are_exact_to_rounding():
    model = adapted(classifier(torch.float64)).eval()
    before, weights = model(IDS, LENGTHS), snapshot(model)
    expected = merged_state(model)
    merge(model)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-12, rtol=0)
    for layer in lora_layers(model).values():  # the magnitude is what it says
        lengths = layer.linear.weight.norm(dim=1)
        torch.testing.assert_close(lengths, layer.lora.magnitude.abs(), atol=1e-12, rtol=0)
    with pytest.raises(InputError, match="merged already"):
        merge(model)
    unmerge(model)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-13, rtol=1e-13)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-12, rtol=0)
    merge_and_unload(model)
    assert set(model.state_dict()) == set(expected)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_beside_a_w_of_four_bits_it_learns_and_merges_into_what_the_codes_stand_for(dropout):
    model = classifier()
    apply_method(model, "qlora", LoRASettings(rank=2, variant="dora", dropout=dropout))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            torch.nn.init.normal_(layer.lora.B, std=0.1)
    loss_of(model).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    before = model.eval()(IDS, LENGTHS)
    merge_and_unload(model)
    torch.testing.assert_close(model(IDS, LENGTHS), before, atol=1e-5, rtol=0)


# --- from the command line to a folder, and what reads folders ---


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base, messages, and adapters of both kinds trained on them."""
    folder = tmp_path_factory.mktemp("dora")
    base = write_base(folder / "base")
    messages = write_messages(folder / "messages.tsv")
    write_adapter(folder / "dora", base, messages, variant="dora")
    write_adapter(folder / "lora", base, messages, task="question")
    return folder


def test_a_folder_holds_the_magnitudes_and_answers_as_before(place):
    model, _, record = load_finetuned(place / "dora")
    assert record.lora.variant == "dora" and record.results["base_unchanged"]
    layers = lora_layers(model).values()
    assert all(isinstance(layer, LinearWithDoRA) for layer in layers)
    assert any((layer.gain() - 1).abs().max() > 1e-3 for layer in layers)
    merge_and_unload(model)
    assert not lora_layers(model)


def test_records_of_plain_lora_are_what_they_were(place):
    about = json.loads((place / "lora" / "run.json").read_text())
    five = {"rank", "alpha", "targets", "dropout", "rslora"}
    assert set(about["lora"]) == set(about["settings"]["lora"]) == five
    assert read_record(place / "lora").lora.variant == "lora"
    bad = {**about, "lora": {**about["lora"], "variant": "doora"}}
    with pytest.raises(InputError, match="variant must be lora or dora, not 'doora'"):
        RunRecord.from_dict(bad)


def test_adapters_of_both_kinds_share_a_base_and_a_batch(place):
    adapters = Adapters.load({"dora": place / "dora", "lora": place / "lora"})
    before = snapshot(adapters.model.body)
    texts = ["WIN a free prize, call now!", "see you tonight?", "WIN alpha", "at gamma tonight"]
    names = ["dora", "lora", "lora", "dora"]
    alone = []
    for text, name in zip(texts, names):
        adapters.use(name)
        alone.append(adapters.classify([text])[0])
        model, _, _ = load_finetuned(place / name)
        encoded = adapters.encode([text])
        logits = model(torch.tensor(encoded.ids), torch.tensor([len(encoded.ids[0])]))
        torch.testing.assert_close(alone[-1], F.softmax(logits[0], -1), atol=1e-5, rtol=0)
    mixed = adapters.classify_mixed(texts, names)
    torch.testing.assert_close(mixed, torch.stack(alone), atol=1e-5, rtol=0)
    adapters.use(None)
    after = adapters.model.body.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_the_command_line_takes_dora(place, tmp_path):
    start = ("--model", place / "base", "--data", place / "messages.tsv", "--epochs", "1")
    begin = ("finetune", *start, "--quiet", "--device", "cpu", "--rank", "2")
    for way, options in (("method", ("--method", "dora")), ("variant", ("--variant", "dora"))):
        assert run(*begin, *options, "--out", tmp_path / way).returncode == 0
        assert read_record(tmp_path / way).method == "lora"
        assert read_record(tmp_path / way).lora.variant == "dora"
    one, other = ((tmp_path / way / "adapter.safetensors") for way in ("method", "variant"))
    assert one.read_bytes() == other.read_bytes()
    out = tmp_path / "merged"
    assert run("merge", "--from", tmp_path / "method", "--out", out).returncode == 0
    text = "WIN a free alpha prize"
    answers = [
        json.loads(run("predict", "--from", folder, "--json", text).stdout)[0]["probability"]
        for folder in (tmp_path / "method", out)
    ]
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)
    refused(run(*begin, "--method", "doora", "--out", tmp_path / "x"), "head, lora, dora")


def test_info_counts_the_magnitudes():
    """One number an output: 12 blocks of 768 (4 + 4 + 1) more than LoRA."""
    counts = {}
    for method in ("lora", "dora"):
        answer = run("info", "--model", "gpt2", "--method", method, "--rank", "16", "--json")
        counts[method] = json.loads(answer.stdout)["trainable_parameters"]
    assert counts == {"lora": 2_655_746, "dora": 2_655_746 + 12 * 768 * 9}


def test_a_name_is_the_method_and_its_setting():
    named = FinetuneSettings(method="dora", lora=LoRASettings(rank=3))
    spelled = FinetuneSettings(lora=LoRASettings(rank=3, variant="dora"))
    assert named == spelled
    with pytest.raises(InputError, match="variant must be lora or dora"):
        FinetuneSettings(lora=LoRASettings(variant="adora"))


def test_rows_that_are_stretched_or_turned():
    rows = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert row_changes(rows, 1.5 * rows) == pytest.approx((0.5, 0.0))
    assert row_changes(rows, rows.flip(1)) == pytest.approx((0.0, 1.0))  # by a right angle
