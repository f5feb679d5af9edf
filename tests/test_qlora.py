"""QLoRA from the command to the folder and back, and beside peft on bitsandbytes' own layer."""

import json
import weakref

import pytest
import torch
from small import write_adapter, write_base, write_messages
from torch import nn

from llm.cli.parser import main
from llm.formats import base_in_codes
from llm.formats.base import load_base, load_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.formats.transformers import export_transformers
from llm.inference.adapters import Adapters
from llm.inference.evaluation import classify
from llm.inference.reading import read_messages
from llm.lora import double_quantization
from llm.lora.inject import lora_layers
from llm.lora.layer import LinearWithLoRA, dense
from llm.lora.quantized_linear import QuantizedLinear, quantize_linears, quantized_layers
from llm.model.parameters import fingerprint
from llm.studies.compare import compare
from llm.training.pretraining import save_base
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError

TEXTS = ["WIN a free prize, call now!", "see you tonight?"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    """A base, messages, and an adapter on that base in four bits, in eight, and as it is."""
    root = tmp_path_factory.mktemp("qlora")
    base, messages = write_base(root / "base"), write_messages(root / "messages.tsv")
    found = {"root": root, "base": base, "messages": messages}
    for name, kind in (("nf4", "nf4"), ("int8", "int8"), ("plain", None)):
        found[name] = write_adapter(root / name, base, messages, pool="last", quantize=kind)
    return found


def answers(folder) -> torch.Tensor:
    model, tokenizer, record = load_finetuned(folder)
    encoded = read_messages(TEXTS, [record.task] * len(TEXTS), tokenizer, 48)
    return classify(model, encoded)


def printed(capsys, *arguments) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def record_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["nf4", "int8"])
@pytest.mark.parametrize("format_", ["ours", "transformers"])
def test_a_base_read_into_codes_is_the_one_that_was_read_and_put_into_them(
    folders, kind, format_, tmp_path, monkeypatch
):
    folder = folders["base"]
    if format_ == "transformers":
        export_transformers(load_base(folder), load_tokenizer(folder), tmp_path / "base")
        folder = tmp_path / "base"
    before = load_base(folder)
    expected = fingerprint(before)
    quantize_linears(before, kind)
    whole = []

    def noted(linear, kind):
        whole[:] = [weight for weight in whole if weight() is not None]
        assert not whole  # no W that went into codes is still there in float32
        whole.append(weakref.ref(linear.weight))
        return QuantizedLinear(linear, kind)

    monkeypatch.setattr(base_in_codes, "QuantizedLinear", noted)
    body, mark = base_in_codes.load_known_base(folder, quantize=kind)
    assert mark == expected and whole
    state = before.state_dict()
    assert body.state_dict().keys() == state.keys()
    assert all(torch.equal(state[name], x) for name, x in body.state_dict().items())
    wanted = [name for name, p in before.named_parameters() if p.requires_grad]
    assert [name for name, p in body.named_parameters() if p.requires_grad] == wanted


def test_a_base_as_it_is_and_one_of_random_weights_are_known_too(folders):
    body, mark = base_in_codes.load_known_base(folders["base"])
    assert mark == fingerprint(body) == fingerprint(load_base(folders["base"]))
    body, mark = base_in_codes.load_known_base(folders["base"], "random", 3, quantize="nf4")
    assert mark == fingerprint(body) == fingerprint(load_base(folders["base"], "random", 3))


def test_a_base_with_a_bad_number_is_refused_on_the_way(folders, tmp_path):
    model = load_base(folders["base"])
    with torch.no_grad():
        model.trf_blocks[1].ff.fc2.weight[0, 0] = torch.nan
    save_base(tmp_path, model.config, model.state_dict(), load_tokenizer("mini"))
    with pytest.raises(InputError, match="fc2.weight holds values that are not finite"):
        base_in_codes.load_known_base(tmp_path, quantize="nf4")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_folder_names_its_quantisation_and_is_loaded_with_it(folders, kind):
    record = record_of(folders[kind])
    assert record["lora"]["quantize"] == record["settings"]["lora"]["quantize"] == kind
    assert record["base"] == record_of(folders["plain"])["base"]  # of W before it was quantised
    assert record["record"]["base_unchanged"] is True
    model, _, _ = load_finetuned(folders[kind])
    assert len(quantized_layers(model)) == 12
    base = load_finetuned(folders["plain"])[0]
    for name, layer in quantized_layers(model).items():
        again = QuantizedLinear(base.get_submodule(name), kind).weight
        assert torch.equal(layer.weight.codes, again.codes)


def test_a_folder_without_quantisation_reads_as_it_always_did(folders):
    record = record_of(folders["plain"])
    assert "quantize" not in record["lora"] and "quantize" not in record["settings"]["lora"]


def test_a_kind_that_is_none_is_refused(folders, tmp_path, capsys):
    record = record_of(folders["nf4"])
    record["lora"]["quantize"] = "nf3"
    (tmp_path / "run.json").write_text(json.dumps(record))
    status, _, err = printed(capsys, "predict", "--from", tmp_path, "hello")
    assert status == 2 and "nf4 or int8" in err


def test_the_fewer_bytes_stand_in_the_record(folders):
    of = {name: record_of(folders[name])["record"] for name in ("nf4", "int8", "plain")}
    weights = {name: record["memory_bytes"]["weights"] for name, record in of.items()}
    assert weights["nf4"] < weights["int8"] < weights["plain"]
    assert of["nf4"]["total_parameters"] == of["plain"]["total_parameters"]
    assert of["nf4"]["memory_bytes"]["gradients"] == of["plain"]["memory_bytes"]["gradients"]


def test_training_again_gives_the_same_adapter_and_resuming_a_finished_one_changes_nothing(
    folders, tmp_path
):
    again = write_adapter(
        tmp_path / "again", folders["base"], folders["messages"], pool="last", quantize="nf4"
    )
    file = "adapter.safetensors"
    assert (again / file).read_bytes() == (folders["nf4"] / file).read_bytes()
    before = record_of(again)
    write_adapter(again, folders["base"], folders["messages"], "spam", True, "last", quantize="nf4")
    assert record_of(again) == before
    with pytest.raises(InputError, match="other options"):
        write_adapter(again, folders["base"], folders["messages"], "spam", True, "last")


def test_commands_take_the_folder(folders, capsys):
    folder = folders["nf4"]
    status, out, _ = printed(capsys, "predict", "--from", folder, "--json", *TEXTS)
    found = [answer["probability"] for answer in json.loads(out)]
    assert status == 0
    assert found == pytest.approx(answers(folder).max(dim=1).values.tolist())
    status, out, _ = printed(capsys, "info", "--from", folder, "--json")
    assert status == 0 and json.loads(out)["quantize"] == "nf4"
    arguments = ("evaluate", "--from", folder, "--data", folders["messages"], "--json")
    status, out, _ = printed(capsys, *arguments)
    assert status == 0 and json.loads(out)["messages"] == 60


def test_merging_is_exact(folders, tmp_path, capsys):
    out = tmp_path / "merged"
    status, _, err = printed(capsys, "merge", "--from", folders["nf4"], "--out", out)
    assert status == 0 and "nf4 stood for" in err
    torch.testing.assert_close(answers(out), answers(folders["nf4"]), atol=1e-6, rtol=1e-5)


def test_requantising_says_how_far_it_rounds(folders, tmp_path, capsys):
    """Against the same two lengths, computed here from the exact merge."""
    exact, rounded = tmp_path / "exact", tmp_path / "rounded"
    printed(capsys, "merge", "--from", folders["nf4"], "--out", exact)
    arguments = ("merge", "--from", folders["nf4"], "--requantize", "--out", rounded, "--json")
    status, out, _ = printed(capsys, *arguments)
    assert status == 0
    one, other = load_finetuned(exact)[0], load_finetuned(rounded)[0]
    weights = other.state_dict()
    moved = torch.cat([(w - weights[name]).flatten() for name, w in one.state_dict().items()])
    assert json.loads(out)["rounding"] == pytest.approx(moved.norm().item(), rel=1e-5)
    model = load_finetuned(folders["nf4"])[0]
    updates = [layer.lora.delta().flatten() for layer in lora_layers(model).values()]
    assert json.loads(out)["update"] == pytest.approx(torch.cat(updates).norm().item(), rel=1e-4)


def test_requantising_what_was_not_quantised_is_refused(folders, tmp_path, capsys):
    arguments = ("merge", "--from", folders["plain"], "--out", tmp_path / "x", "--requantize")
    status, _, err = printed(capsys, *arguments)
    assert status == 2 and "--requantize" in err
    assert not (tmp_path / "x").exists()


def test_exports_say_that_the_base_was_quantised(folders, tmp_path, capsys):
    for format, word in (("peft", "trained on the base in nf4"), ("transformers", "stood for")):
        arguments = ("export", "--from", folders["nf4"], "--format", format)
        status, _, err = printed(capsys, *arguments, "--out", tmp_path / format)
        assert status == 0 and word in err
        arguments = ("export", "--from", folders["plain"], "--format", format)
        _, _, err = printed(capsys, *arguments, "--out", tmp_path / f"plain-{format}")
        assert word not in err


def test_adapters_share_a_base_in_four_bits(folders):
    adapters = Adapters.load({"one": folders["nf4"], "other": folders["nf4"]})
    adapters.use("one")
    expected = answers(folders["nf4"])
    torch.testing.assert_close(adapters.classify(TEXTS), expected)
    torch.testing.assert_close(adapters.classify_mixed(TEXTS, ["one", "other"]), expected)
    layers = [adapters[name].layers["body.trf_blocks.0.ff.fc1"] for name in ("one", "other")]
    assert layers[0].linear is layers[1].linear
    assert adapters.fingerprint == record_of(folders["nf4"])["base"]["fingerprint"]
    before = fingerprint(adapters.model.body)
    adapters.use(None)
    adapters.use("other")
    assert fingerprint(adapters.model.body) == before


@pytest.mark.parametrize("first, second", [("nf4", "plain"), ("plain", "nf4"), ("int8", "nf4")])
def test_adapters_on_bases_of_different_bits_are_refused(folders, first, second):
    adapters = Adapters.load({first: folders[first]})
    with pytest.raises(InputError, match="load it by itself"):
        adapters.add(second, folders[second])
    assert list(adapters) == [first]


def test_a_voice_in_four_bits(folders, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"good morning number {i}, my friend" for i in range(30)))
    out = tmp_path / "voice"
    arguments = ("finetune", "--model", folders["base"], "--task", "writing", "--text", text)
    status, *_ = printed(
        capsys, *arguments, "--method", "qlora", "--epochs", 1, "--quiet", "--out", out
    )
    assert status == 0
    record = record_of(out)
    assert record["method"] == "lora" and record["lora"]["quantize"] == "nf4"
    assert record["record"]["base_unchanged"] is True
    assert printed(capsys, "generate", "--from", out, "good", "--tokens", 3)[0] == 0
    assert printed(capsys, "evaluate", "--from", out, "--data", text)[0] == 0


def test_compare_refuses_before_it_trains(folders, tmp_path, capsys):
    arguments = ("compare", "--methods", "lora,full", "--quantize", "nf4", "--out", tmp_path / "x")
    status, _, err = printed(capsys, *arguments)
    assert status == 2 and "--quantize" in err
    assert not (tmp_path / "x" / "runs").exists()


def test_compare_takes_qlora_beside_the_others(folders, tmp_path, monkeypatch):
    """In this process: a fresh one a run is what the other tests of compare are about."""
    from llm.training.finetuning import finetune

    def here(settings, out, resume, device, quiet):
        return finetune(settings, out, resume, device, quiet).to_dict()

    monkeypatch.setattr("llm.studies.compare.run_in_fresh_process", here)
    settings = FinetuneSettings(
        model=str(folders["base"]), data=str(folders["messages"]), epochs=1, batch_size=8
    )
    results = compare(["lora", "qlora"], [0], settings, tmp_path, device="cpu", quiet=True)
    assert list(results["summary"]) == ["lora", "qlora"]
    assert [run["quantize"] for run in results["runs"]] == [None, "nf4"]


@pytest.mark.parametrize("bias", [True, False])
def test_training_is_that_of_peft_on_the_layer_of_bitsandbytes(bias, monkeypatch):
    """Outputs and gradients, with W quantised by bitsandbytes itself. It trains: in evaluation its
    layer may compute in bfloat16 (version 0.50, on a CPU)."""
    bnb = pytest.importorskip("bitsandbytes")
    peft = pytest.importorskip("peft")
    from test_quantize import by_table

    torch.manual_seed(0)
    plain = nn.Linear(128, 64, bias=bias)
    theirs = bnb.nn.Linear4bit(
        128, 64, bias=bias, compute_dtype=torch.float32, compress_statistics=True, quant_type="nf4"
    )
    theirs.load_state_dict(plain.state_dict())
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    theirs = peft.get_peft_model(nn.Sequential(theirs.to("cpu")), config).train()

    monkeypatch.setattr(double_quantization, "nearest", by_table)  # the CPU's rule for the scales
    ours = LinearWithLoRA(QuantizedLinear(plain, "nf4"), 4, 8)
    nn.init.normal_(ours.lora.B, std=0.1)
    layer = theirs.base_model.model[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(ours.lora.A.T)
        layer.lora_B["default"].weight.copy_(ours.lora.B.T)
    x = torch.randn(5, 128)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [ours(inputs[0]), theirs(inputs[1])]
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-6)
    for y in outputs:
        y.square().sum().backward()
    for one, other in (
        (inputs[0].grad, inputs[1].grad),
        (ours.lora.A.grad.T, layer.lora_A["default"].weight.grad),
        (ours.lora.B.grad.T, layer.lora_B["default"].weight.grad),
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert dense(ours.linear).shape == (64, 128)
