"""Adapters to the real peft and back: the same logits, after real training on either side."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from twins import TINY, hf_config, random_ids, random_model

from llm.data.tokenizer import mini_tokenizer
from llm.formats.peft_export import export_peft
from llm.formats.peft_import import import_peft
from llm.formats.transformers import export_transformers
from llm.lora.inject import lora_layers, merge, replace_linear_with_lora
from llm.model.classifier import GPTClassifier
from llm.utils.errors import InputError
from llm.utils.files import read_json, read_tensors, write_json, write_tensors

PAD = TINY.vocab_size - 1
LENGTHS = torch.tensor([9, 2, 5, 7])
REAL = torch.arange(9) < LENGTHS[:, None]
IDS = torch.where(REAL, random_ids(TINY, 4, 9) % PAD, PAD)
LABELS = torch.tensor([0, 1, 1, 0])
QKV = ("W_query", "W_key", "W_value")
SUBSETS = [subset for n in (1, 2, 3) for subset in itertools.combinations(QKV, n)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The same random base for both sides: ours, and a folder that transformers loads."""
    from transformers import GPT2LMHeadModel
    from twins import in_hf_names

    folder = tmp_path_factory.mktemp("base")
    body = random_model()
    twin = GPT2LMHeadModel(hf_config(TINY, pad_token_id=PAD))
    state = {name: tensor.clone() for name, tensor in in_hf_names(body.state_dict()).items()}
    twin.load_state_dict(state | {"lm_head.weight": state["transformer.wte.weight"]})
    twin.save_pretrained(folder)
    return body.state_dict(), folder


def ours(base, seed=0) -> GPTClassifier:
    torch.manual_seed(seed)
    model = GPTClassifier(TINY)
    model.body.load_state_dict(base[0])
    return model.eval()


def theirs(base, seed=0):
    from transformers import GPT2ForSequenceClassification

    torch.manual_seed(seed)
    return GPT2ForSequenceClassification.from_pretrained(base[1], num_labels=2).eval()


def train(model, logits, steps=8) -> None:
    """A short real training, enough to move every trainable tensor well away from its start."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.03)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(logits(model), LABELS).backward()
        optimizer.step()
    model.eval()


def our_logits(model) -> torch.Tensor:
    return model(IDS, LENGTHS)


def their_logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def trained(base, **settings) -> GPTClassifier:
    model = ours(base)
    replace_linear_with_lora(model, **({"rank": 3, "alpha": 6} | settings))
    before = our_logits(model)
    train(model, our_logits)
    assert (our_logits(model) - before).abs().max() > 0.1
    return model


# --- ours -> peft ---


@pytest.mark.parametrize(
    "targets",
    [*SUBSETS, ("W_query", "W_value", "fc1"), ("out_proj",), ("fc1", "fc2"), ("out_proj", "fc2")],
    ids="+".join,
)
@torch.no_grad()
def test_peft_gives_our_logits_for_every_choice_of_layers(tmp_path, base, targets):
    from peft import PeftModel

    with torch.enable_grad():
        model = trained(base, targets=targets)
    export_peft(model, tmp_path, str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base, seed=9), tmp_path).eval()
    close(their_logits(loaded), our_logits(model))
    close(their_logits(loaded.merge_and_unload()), our_logits(model))


@pytest.mark.parametrize("rslora", [False, True], ids=["alpha/rank", "rslora"])
@pytest.mark.parametrize("rank, alpha", [(1, 1), (4, 16), (5, 3.5), (16, 8)])
@torch.no_grad()
def test_any_rank_and_scale(tmp_path, base, rank, alpha, rslora):
    from peft import PeftModel

    with torch.enable_grad():
        model = trained(base, rank=rank, alpha=alpha, rslora=rslora)
    export_peft(model, tmp_path, str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base, seed=9), tmp_path).eval()
    close(their_logits(loaded), our_logits(model))
    config = read_json(tmp_path / "adapter_config.json")
    assert config["target_modules"] == ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert (config["r"], config["lora_alpha"]) == (rank, alpha)
    assert config["rank_pattern"] == {"attn.c_attn": 3 * rank}
    factor = 3**0.5 if rslora else 3
    assert config["alpha_pattern"] == {"attn.c_attn": pytest.approx(factor * alpha)}


@torch.no_grad()
def test_an_adapted_head_and_a_large_bias(tmp_path, base):
    from peft import PeftModel

    with torch.enable_grad():
        model = trained(base, targets="all")
    model.head.linear.bias.copy_(torch.tensor([2.0, -3.0]))
    export_peft(model, tmp_path, str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base, seed=9), tmp_path).eval()
    close(their_logits(loaded), our_logits(model))


@torch.no_grad()
def test_auto_peft_finds_the_base_by_its_name(tmp_path, base):
    from peft import AutoPeftModelForSequenceClassification

    with torch.enable_grad():
        model = trained(base)
    export_peft(model, tmp_path, str(base[1]))
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path).eval()
    close(their_logits(loaded), our_logits(model))


@torch.no_grad()
def test_layers_in_some_blocks_only(tmp_path, base):
    from peft import PeftModel

    with torch.enable_grad():
        model = trained(base, targets=["W_value", "fc1"])
    for name, layer in lora_layers(model).items():
        if not name.endswith(("1.att.W_value", "0.ff.fc1")):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.linear)
    export_peft(model, tmp_path, str(base[1]))
    targets = read_json(tmp_path / "adapter_config.json")["target_modules"]
    assert targets == ["h.1.attn.c_attn", "h.0.mlp.c_fc"]
    loaded = PeftModel.from_pretrained(theirs(base, seed=9), tmp_path).eval()
    close(their_logits(loaded), our_logits(model))


def test_peft_goes_on_training_it(tmp_path, base):
    from peft import PeftModel

    export_peft(trained(base), tmp_path, str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base), tmp_path, is_trainable=True)
    first = F.cross_entropy(their_logits(loaded), LABELS).item()
    train(loaded, their_logits, steps=3)
    assert F.cross_entropy(their_logits(loaded), LABELS).item() < first
    model = ours(base)
    loaded.save_pretrained(tmp_path / "again")
    import_peft(model, tmp_path / "again")
    close(our_logits(model), their_logits(loaded))


def test_exporting_changes_nothing_in_the_model(tmp_path, base):
    model = trained(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_peft(model, tmp_path, str(base[1]))
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())


def test_the_adapter_is_small_and_holds_no_base(tmp_path, base):
    export_peft(trained(base, targets=["W_query"]), tmp_path, "openai-community/gpt2")
    tensors, _ = read_tensors(tmp_path / "adapter_model.safetensors")
    assert len(tensors) == 2 * TINY.n_layers + 3  # A and B a block, score, ln_f
    assert tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"].shape == (96, 3)
    config = read_json(tmp_path / "adapter_config.json")
    assert config["base_model_name_or_path"] == "openai-community/gpt2"


# --- and back ---


@pytest.mark.parametrize(
    "targets", [("W_query",), ("W_query", "W_value"), QKV, ("fc1", "out_proj")]
)
@pytest.mark.parametrize("rslora", [False, True])
def test_an_exported_adapter_comes_back_as_it_was(tmp_path, base, targets, rslora):
    model = trained(base, targets=targets, rslora=rslora, dropout=0.1)
    export_peft(model, tmp_path, str(base[1]))
    again = ours(base, seed=5)
    settings = import_peft(again, tmp_path)
    assert settings["rank"] == 3
    assert settings["alpha"] == pytest.approx(6)
    assert set(settings["targets"]) == set(targets)
    assert (settings["dropout"], settings["rslora"]) == (0.1, rslora)
    for name, layer in lora_layers(model).items():
        twin = again.get_submodule(name)
        torch.testing.assert_close(twin.lora.A, layer.lora.A, atol=0, rtol=0)
        torch.testing.assert_close(twin.lora.B, layer.lora.B, atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(again.head.weight, model.head.weight, atol=0, rtol=1e-6)
    torch.testing.assert_close(again.head.bias, model.head.bias, atol=1e-6, rtol=1e-6)
    close(our_logits(again), our_logits(model))


# --- peft -> ours ---


def trained_by_peft(base, folder, **settings):
    from peft import LoraConfig, get_peft_model

    model = theirs(base, seed=4)
    settings = {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn"]} | settings
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", fan_in_fan_out=True, **settings))
    before = their_logits(model)
    train(model, their_logits)
    assert (their_logits(model) - before).abs().max() > 0.1
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"r": 1},
        {"r": 7, "lora_alpha": 3},
        {"use_rslora": True},
        {"target_modules": ["c_proj"]},
        {"target_modules": ["c_attn", "c_proj", "c_fc"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["attn.c_proj", "c_fc"], "r": 2, "use_rslora": True},
        {"modules_to_save": ["ln_f"]},
        {"lora_dropout": 0.2},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"layers_to_transform": [1]},
        {
            "target_modules": ["c_attn", "c_fc"],
            "rank_pattern": {"c_fc": 5, "h.1.attn.c_attn": 2},
            "alpha_pattern": {"h.0.mlp.c_fc": 40},
        },
    ],
    ids=str,
)
@torch.no_grad()
def test_ours_gives_the_logits_of_an_adapter_that_peft_trained(tmp_path, base, settings):
    with torch.enable_grad():
        twin = trained_by_peft(base, tmp_path, **settings)
    model = ours(base)
    found = import_peft(model, tmp_path)
    close(our_logits(model), their_logits(twin))
    for name, tensor in model.body.state_dict().items():  # the base is left alone
        if ".lora." not in name:
            assert torch.equal(tensor, base[0][name.replace(".linear.", ".")])
    merge(model)
    close(our_logits(model), their_logits(twin))
    assert found["rank"] == max(
        settings.get("r", 3), *settings.get("rank_pattern", {"": 0}).values()
    )


@torch.no_grad()
def test_there_and_back_again(tmp_path, base):
    """peft -> ours, trained on, -> peft."""
    from peft import PeftModel

    with torch.enable_grad():
        trained_by_peft(base, tmp_path / "one", target_modules=["c_attn", "c_proj"])
        model = ours(base)
        import_peft(model, tmp_path / "one")
        before = our_logits(model)
        train(model, our_logits, steps=3)
    assert (our_logits(model) - before).abs().max() > 0.01
    export_peft(model, tmp_path / "two", str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base), tmp_path / "two").eval()
    close(their_logits(loaded), our_logits(model))


def test_an_imported_adapter_can_be_exported_to_transformers(tmp_path, base):
    from transformers import GPT2ForSequenceClassification

    twin = trained_by_peft(base, tmp_path / "one")
    model = ours(base)
    import_peft(model, tmp_path / "one")
    export_transformers(model, mini_tokenizer(), tmp_path / "two")
    loaded = GPT2ForSequenceClassification.from_pretrained(tmp_path / "two").eval()
    loaded.config.pad_token_id = PAD  # the tiny base has fewer tokens than any vocabulary of ours
    with torch.no_grad():
        close(their_logits(loaded), their_logits(twin))


# --- what is refused ---


def test_models_that_have_nothing_to_export(tmp_path, base):
    with pytest.raises(InputError, match="no LoRA layers"):
        export_peft(ours(base), tmp_path, "base")
    model = trained(base)
    merge(model)
    with pytest.raises(InputError, match="are merged; unmerge"):
        export_peft(model, tmp_path, "base")
    with pytest.raises(InputError, match="only the head has a LoRA layer"):
        export_peft(trained(base, targets=["head"]), tmp_path, "base")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "lora_magnitude_vector of h.0.attn.c_attn is missing"),
        ({"use_qalora": True}, "use_qalora is set; only plain LoRA and DoRA can be read"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base"),
        ({"lora_alpha": None}, "lora_alpha must be a number"),
    ],
)
def test_configurations_that_are_no_plain_lora(tmp_path, base, change, message):
    export_peft(trained(base), tmp_path, "base")
    path = tmp_path / "adapter_config.json"
    write_json(path, read_json(path) | change)
    refused(base, tmp_path, message)


def refused(base, folder, message) -> None:
    """One line, and a model on which nothing has changed."""
    model = ours(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        import_peft(model, folder)
    assert "\n" not in str(caught.value)
    assert not lora_layers(model)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


C_ATTN = "base_model.model.transformer.h.0.attn.c_attn.lora_"
SCORE = "base_model.model.score.weight"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(f"{C_ATTN}B.weight"), "lora_A or lora_B of h.0.attn.c_attn is missing"),
        (lambda t: t.pop(SCORE), "holds no score.weight"),
        (lambda t: t.update({SCORE: torch.ones(3, 32)}), r"score.weight has shape \[3, 32\]"),
        (lambda t: t.update({f"{C_ATTN}A.weight": torch.ones(9, 31)}), r"lora_A \[9, 31\].*32 inp"),
        (lambda t: t.update({f"{C_ATTN}A.weight": torch.ones(4, 32)}), "do not fit"),
        (lambda t: t[f"{C_ATTN}A.weight"].fill_(torch.nan), "h.0.attn.c_attn.*not finite"),
        (
            lambda t: t.update({"base_model.model.transformer.wte.weight": torch.ones(2)}),
            "wte.weight cannot be read",
        ),
        (
            lambda t: [
                t.update({n.replace("h.0", "h.7"): t.pop(n)}) for n in list(t) if "h.0" in n
            ],
            "the model has no layer h.7.",
        ),
        (lambda t: t.pop("base_model.model.transformer.ln_f.bias"), "ln_f does not fit"),
        (lambda t: [t.pop(n) for n in list(t) if "lora" in n], "holds no LoRA update"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, base, change, message):
    export_peft(trained(base), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors, _ = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors)
    refused(base, tmp_path, message)


def test_folders_that_are_none(tmp_path, base):
    refused(base, tmp_path, "adapter_config.json does not exist")
    (tmp_path / "adapter_config.json").write_text("{")
    refused(base, tmp_path, "not valid JSON")
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "lora_alpha": 1})
    refused(base, tmp_path, "adapter_model.safetensors does not exist")


def test_importing_onto_lora_layers_is_refused(tmp_path, base):
    model = trained(base)
    export_peft(model, tmp_path, "base")
    before = our_logits(model)
    with pytest.raises(InputError, match="has LoRA layers already"):
        import_peft(model, tmp_path)
    assert torch.equal(our_logits(model), before)


def test_randomised_base(base):
    """The base's LayerNorms are not 1 and 0, so that folding ln_f is put to the test."""
    assert not base[0]["final_norm.scale"].eq(1).any()
    assert not base[0]["final_norm.shift"].eq(0).any()
