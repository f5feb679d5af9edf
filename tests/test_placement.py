"""Where LoRA goes, how wide there, how fast its two matrices learn; and the blocks below it."""

import json

import pytest
import torch
from small import change_record, write_adapter, write_base, write_messages
from test_cli import refused, run
from test_lora import IDS, LENGTHS, TwoLinears, classifier, trainable
from twins import TINY

from llm.data.batching import collate
from llm.formats.finetuned import load_finetuned
from llm.formats.peft_export import export_peft
from llm.formats.peft_import import import_peft
from llm.formats.record import read_record
from llm.lora.inject import lora_layers, replace_linear_with_lora
from llm.lora.methods import LoRASettings, apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.groups import LengthGroups
from llm.training import finetuning, voices
from llm.training.classification import ClassificationTask
from llm.training.finetuning import FinetuneSettings, finetune
from llm.training.settings import TrainSettings
from llm.training.step import OptimizerStep, make_optimizer
from llm.utils.errors import InputError
from llm.utils.files import read_json, read_tensors

# --- where, and how wide ---


def test_blocks_by_number_and_ranks_by_kind():
    model = classifier()
    replaced = replace_linear_with_lora(
        model, 4, 8, ["W_query", "fc1"], layers=[2, 0], rank_pattern={"fc1": 2}
    )
    assert replaced == [f"body.trf_blocks.{n}.{kind}" for n in (0, 2) for kind in KINDS]
    for name, layer in lora_layers(model).items():
        rank = 2 if name.endswith("fc1") else 4
        assert (layer.lora.A.shape[1], layer.lora.scale) == (rank, 8 / rank)
    d = TINY.emb_dim
    assert trainable(model) == 2 * (4 * 2 * d + 2 * 5 * d) + 2 * d + 2  # and the head


KINDS = ("att.W_query", "ff.fc1")


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_with_layers_the_head_is_trained_itself(variant):
    model = classifier()
    replace_linear_with_lora(model, 2, 4, "all", layers=[1], variant=variant)
    assert type(model.head) is torch.nn.Linear and model.head.weight.requires_grad
    assert len(lora_layers(model)) == 6


@pytest.mark.parametrize(
    "settings, frozen",
    [
        ({}, 0),
        ({"layers": [1, 2]}, 1),
        ({"layers": [2], "targets": "all"}, 2),
        ({"layers": [0, 2]}, 0),
        ({"targets": ["head"], "rank": 2}, 3),
    ],
    ids=str,
)
def test_how_many_blocks_stay_as_they_are(settings, frozen):
    assert apply_method(classifier(), "lora", LoRASettings(**settings)) == frozen


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"layers": [3]}, "the model has no block 3; they are 0 to 2"),
        ({"layers": []}, "numbers of blocks, from 0, not []"),
        ({"layers": [-1]}, "numbers of blocks"),
        ({"layers": "1"}, "numbers of blocks"),
        ({"layers": [1], "targets": ["head"]}, "no block holds head"),
        ({"rank_pattern": {"fc3": 2}}, "a rank for fc3, which is none of the targets W_query"),
        ({"rank_pattern": {"fc1": 0}}, "rank must be a whole number"),
        ({"rank_pattern": {"fc1": 500}}, "rank 500 is too large"),
        ({"rank_pattern": [2]}, "rank_pattern must give ranks by name"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_and_changes_nothing(settings, message):
    model = classifier()
    with pytest.raises(InputError) as caught:
        replace_linear_with_lora(model, **{"rank": 4, "alpha": 8} | settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not lora_layers(model) and all(p.requires_grad for p in model.parameters())


def test_placement_equals_pefts_on_gpt2():
    """layers_to_transform and rank_pattern: the same layers of the same shapes and scales."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2ForSequenceClassification
    from twins import hf_config

    twin = GPT2ForSequenceClassification(hf_config(TINY, num_labels=2))
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["c_fc", "attn.c_proj"], fan_in_fan_out=True,
        layers_to_transform=[1, 2], rank_pattern={"c_fc": 2},
    )  # fmt: skip
    found = {}
    for name, module in get_peft_model(twin, config).named_modules():
        if hasattr(module, "lora_A"):
            name = name.removeprefix("base_model.model.transformer.h.")
            found[name] = (module.r["default"], module.scaling["default"])
    model = classifier()
    replace_linear_with_lora(
        model, 4, 8, ["fc1", "out_proj"], layers=[1, 2], rank_pattern={"fc1": 2}
    )
    ours = {
        name.removeprefix("body.trf_blocks.")
        .replace("ff.fc1", "mlp.c_fc")
        .replace("att.out_proj", "attn.c_proj"): (layer.lora.rank, layer.lora.scale)
        for name, layer in lora_layers(model).items()
    }
    assert ours == found


@pytest.mark.parametrize("variant", ["lora", "dora"])
@torch.no_grad()
def test_placement_goes_to_peft_and_comes_back(tmp_path, variant):
    model = classifier()
    pattern = {"W_query": 1, "fc1": 2}
    replace_linear_with_lora(model, 3, 6, layers=[0, 2], rank_pattern=pattern, variant=variant)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora.B, std=0.1)
    export_peft(model, tmp_path, "base")
    again = classifier()
    settings = import_peft(again, tmp_path)
    assert (settings["layers"], settings["rank_pattern"]) == ([0, 2], pattern)
    assert [*lora_layers(again)] == [*lora_layers(model)]
    torch.testing.assert_close(again(IDS, LENGTHS), model(IDS, LENGTHS), atol=1e-5, rtol=1e-5)


# --- LoRA+ ---


@pytest.mark.parametrize("dora", [False, True])
def test_the_rates_are_those_of_pefts_lora_plus(dora):
    from peft import LoraConfig, get_peft_model
    from peft.optimizers import create_loraplus_optimizer

    config = LoraConfig(
        r=2, target_modules=["fc1"], modules_to_save=["fc2"], use_dora=dora, bias="lora_only"
    )
    model = get_peft_model(TwoLinears(), config)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=0.01, loraplus_lr_ratio=16, loraplus_weight_decay=0.3
    )
    kinds = {"lora_A": "lora.A", "lora_B": "lora.B", "magnitude": "lora.magnitude"}
    kinds |= {"modules_to_save": "head.weight", "bias": "head.bias"}
    names = {id(p): name for name, p in model.named_parameters()}
    expected = {
        ours: (group["lr"], group["weight_decay"])
        for group in theirs.param_groups
        for parameter in group["params"]
        for kind, ours in kinds.items()
        if kind in names[id(parameter)]
    }
    if dora:  # we spare the magnitudes from decay, peft does not
        assert expected.pop("lora.magnitude") == (0.16, 0.3)
        expected["lora.magnitude"] = (0.16, 0.0)

    model = classifier()
    replace_linear_with_lora(model, 2, 4, ["fc1"], variant="dora" if dora else "lora")
    settings = TrainSettings(steps=1, lr=0.01, lr_ratio=16, weight_decay=0.3)
    optimizer = make_optimizer(model, settings)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(parameter)].split("fc1.")[-1]: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found == expected


def test_a_step_keeps_the_ratio_and_the_first_is_as_long_as_it_says(tiny, messages):
    """AdamW's first step moves every number by its rate, whatever its gradient."""
    model = GPTClassifier(tiny)
    apply_method(model, "lora", LoRASettings(rank=2, targets=["fc1"]))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora.B.normal_()  # A gets a gradient only then
    task = ClassificationTask(model, messages, messages, 8, 0)
    settings = TrainSettings(steps=1, lr=0.5, lr_ratio=4, weight_decay=0.0)
    step = OptimizerStep(model, task, make_optimizer(model, settings), settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step.take(0, 1e-3)
    for name, parameter in model.named_parameters():
        moved = (parameter - before[name]).abs()
        if name.endswith("lora.A"):
            assert moved.median().item() == pytest.approx(1e-3, rel=0.02)
        if name.endswith("lora.B"):
            assert moved.median().item() == pytest.approx(4e-3, rel=0.02)


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), "4"])
def test_a_ratio_is_a_number_above_0(ratio):
    for settings in (FinetuneSettings, TrainSettings):
        with pytest.raises(InputError, match="ratio of two learning rates"):
            settings(
                **{"lr": 0.1, "lr_ratio": ratio} | ({"steps": 1} if "T" in str(settings) else {})
            )


# --- the blocks below, computed once ---


def test_padded_to_16_a_message_gets_the_same_in_any_company():
    """In the last bit, too, which one padded to whatever the longest is need not get."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 45, (40,)).tolist()
    ids = [torch.randint(TINY.vocab_size, (length,)).tolist() for length in lengths]
    model = GPTClassifier(GPTConfig(TINY.vocab_size, 64, 64, 2, 2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)

    def states(indices) -> list[torch.Tensor]:
        rows = [torch.tensor(ids[i]) for i in indices]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        x, layout = model.embed(padded, torch.tensor([len(row) for row in rows]))
        for block in model.body.trf_blocks:
            x = block(x, layout.attend)
        return list(layout.messages(x))

    model.pad_to = 16
    together = states(range(40))
    shuffled = torch.randperm(40).tolist()
    for part in (shuffled[:8], shuffled[8:20], shuffled[20:]):
        for index, alone in zip(part, states(part), strict=True):
            assert torch.equal(alone, together[index])
    assert LengthGroups([3, 20, 33], 16).shapes == [(1, 16), (1, 32), (1, 48)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("placement")
    config = GPTConfig(vocab_size=8192, context_length=48, emb_dim=16, n_heads=2, n_layers=3)
    write_base(folder / "base", config=config)
    write_messages(folder / "messages.tsv")
    return folder


def settings(place, **more) -> FinetuneSettings:
    lora = {"rank": 2, "alpha": 4, "layers": [1, 2], "dropout": more.pop("dropout", 0.0)}
    lora |= {"variant": more.pop("variant", "lora")}
    usual = {"epochs": 3, "batch_size": 8, "lr": 0.02, "bpe_dropout": 0.0}
    data = {"model": str(place / "base"), "data": str(place / "messages.tsv")}
    return FinetuneSettings(lora=LoRASettings(**lora), **data, **usual | more)


@pytest.mark.parametrize(
    "more",
    [{}, {"dropout": 0.2, "pool": "last"}, {"variant": "dora", "lm_loss": 0.0, "keep": "best"}],
    ids=str,
)
def test_training_on_kept_states_is_training_without_them_to_the_last_bit(
    place, tmp_path, monkeypatch, more
):
    starts, made = [], ClassificationTask

    def kept(*arguments):
        starts.append(arguments[5])
        return made(*arguments)

    def not_kept(*arguments):
        return made(*arguments[:5], 0, *arguments[6:])

    folders = []
    for task in (kept, not_kept):
        monkeypatch.setattr(finetuning, "ClassificationTask", task)
        folders.append(tmp_path / task.__name__)
        finetune(settings(place, **dict(more)), folders[-1], device="cpu")
    assert starts == [1]  # the shortcut was taken
    one, other = (read_tensors(folder / "adapter.safetensors")[0] for folder in folders)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    curves = [read_json(folder / "history.json")["curve"] for folder in folders]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    "method, more, start",
    [
        ("lora", {"dropout": 0.2}, 1),
        ("dora", {"quantize": "int8"}, 1),
        ("qlora", {"layers": [2]}, 2),
        ("last_block", {}, 2),
        ("lora", {"layers": None}, 0),
        ("full", {}, 0),
    ],
    ids=str,
)
def test_writing_on_kept_states_is_writing_without_them_to_the_last_bit(
    place, tmp_path, monkeypatch, method, more, start
):
    starts, made = [], voices.WritingTask

    def kept(*arguments):
        starts.append(arguments[6])
        return made(*arguments)

    def not_kept(*arguments):
        return made(*arguments[:6], 0, *arguments[7:])

    lora = LoRASettings(**{"rank": 2, "alpha": 4, "layers": [1, 2]} | more)
    data = {"model": str(place / "base"), "data": str(place / "messages.tsv")}
    plan = FinetuneSettings(
        method, lora, **data, task="writing", text=["ham"], epochs=2, batch_size=8, lr=0.02
    )
    folders = []
    for task in (kept, not_kept) if start else (kept,):
        monkeypatch.setattr(voices, "WritingTask", task)
        folders.append(tmp_path / task.__name__)
        record = finetune(plan, folders[-1], device="cpu")
        assert record.results["base_unchanged"] == (method in ("lora", "dora", "qlora"))
    assert starts == [start]
    states = [read_tensors(folder / record.weights_file)[0] for folder in folders]
    assert all(torch.equal(states[0][name], x) for name, x in states[-1].items())
    curves = [read_json(folder / "history.json")["curve"] for folder in folders]
    assert curves[0] == curves[-1] and curves[0][-1]["loss"] < curves[0][0]["loss"]


def test_a_base_with_dropout_of_its_own_leaves_nothing_to_keep(place, tmp_path, monkeypatch):
    config = GPTConfig(8192, 48, 16, 2, 3, drop_rate=0.1)
    base = write_base(tmp_path / "base", config=config)
    made, starts = voices.WritingTask, []
    task = lambda *arguments: starts.append(arguments[6]) or made(*arguments)  # noqa: E731
    monkeypatch.setattr(voices, "WritingTask", task)
    lora = LoRASettings(rank=2, layers=[2])
    data = {"model": str(base), "data": str(place / "messages.tsv")}
    plan = FinetuneSettings(lora=lora, **data, task="writing", text=["spam"], epochs=1)
    assert finetune(plan, tmp_path / "out", device="cpu").results["base_unchanged"]
    assert starts == [0]


def test_messages_that_are_cut_anew_leave_nothing_to_keep(place, tmp_path, monkeypatch):
    starts, made = [], ClassificationTask

    def task(*arguments):
        starts.append(arguments[5])
        return made(*arguments)

    monkeypatch.setattr(finetuning, "ClassificationTask", task)
    run_ = settings(place, bpe_dropout=0.1, epochs=1)
    record = finetune(run_, tmp_path, device="cpu")
    assert starts == [0] and record.results["base_unchanged"]


def test_the_lower_blocks_take_no_part_in_the_backward_pass(tiny, messages):
    model = GPTClassifier(tiny)
    assert apply_method(model, "lora", LoRASettings(rank=2, layers=[2])) == 2
    needed = []
    for block in model.body.trf_blocks:
        block.register_forward_hook(lambda *inputs: needed.append(inputs[-1].requires_grad))
    model.last_block = lambda block, x, layout: layout.last(block(x, layout.attend))
    batch = collate(messages, range(4))
    model(batch.ids, batch.lengths).sum().backward()
    assert needed == [False, False, True]


# --- from the command line ---


def test_the_command_line_takes_places_ranks_and_a_ratio(place, tmp_path):
    start = ("finetune", "--model", place / "base", "--data", place / "messages.tsv")
    start += ("--epochs", "1", "--quiet", "--device", "cpu", "--rank", "4", "--bpe-dropout", "0")
    chosen = ("--layers", "2, 1", "--rank-pattern", "W_query=1,fc1=2", "--lr-ratio", "4")
    done = run(*start, *chosen, "--out", tmp_path / "a")
    assert done.returncode == 0, done.stderr
    model, _, record = load_finetuned(tmp_path / "a")
    assert record.lora.layers == [1, 2] and record.lora.rank_pattern == {"W_query": 1, "fc1": 2}
    assert record.settings["lr_ratio"] == 4
    assert len(lora_layers(model)) == 12
    assert run(*start, *chosen, "--out", tmp_path / "a", "--resume").returncode == 0  # the same run
    for wrong, message in (
        (("--layers", "3"), "no block 3; they are 0 to 2 (--layers)"),
        (("--rank-pattern", "head=2"), "none of the targets"),
        (("--lr-ratio", "0"), "above 0, not 0.0 (--lr-ratio)"),
        (("--layers", "x"), "--layers"),
        (("--rank-pattern", "fc1"), "--rank-pattern"),
    ):
        refused(run(*start, *wrong, "--out", tmp_path / "b"), message)
    shape = ("info", "--model", place / "base", "--rank", "4", "--json", *chosen[:4])
    counted = json.loads(run(*shape).stdout)["trainable_parameters"]
    assert counted == record.results["trainable_parameters"]


def test_a_record_with_damaged_places_is_one_line(place, tmp_path):
    base, messages = place / "base", place / "messages.tsv"
    folder = write_adapter(tmp_path / "a", base, messages, layers=[2])
    lora = read_record(folder).lora.to_dict()
    assert "rank_pattern" not in lora
    for damage in ({"layers": 2}, {"layers": [9]}, {"rank_pattern": {"fc1": "x"}}):
        change_record(folder, lora={**lora, **damage})
        with pytest.raises(InputError):
            load_finetuned(folder)
