"""DoRA adapters to the real peft and back: split query, key and value, and fused."""

import pytest
import torch
from test_peft_format import (
    QKV,
    base,  # noqa: F401  a fixture
    close,
    our_logits,
    ours,
    refused,
    their_logits,
    theirs,
    train,
    trained,
    trained_by_peft,
)
from twins import TINY

from llm.formats.peft_export import export_peft
from llm.formats.peft_import import import_peft
from llm.lora.inject import lora_layers, merge
from llm.utils.files import read_json, read_tensors, write_tensors

MAGNITUDE = "base_model.model.transformer.h.0.attn.c_attn.lora_magnitude_vector"


@pytest.mark.parametrize(
    "targets",
    [QKV, ("W_query", "W_value"), ("W_key",), ("out_proj", "fc1", "fc2"), "all"],
    ids=str,
)
@torch.no_grad()
def test_peft_gives_our_logits(tmp_path, base, targets):  # noqa: F811
    from peft import PeftModel

    with torch.enable_grad():
        model = trained(base, targets=targets, variant="dora", rslora="W_key" in targets)
    assert any((layer.gain() - 1).abs().max() > 0.01 for layer in lora_layers(model).values())
    export_peft(model, tmp_path, str(base[1]))
    loaded = PeftModel.from_pretrained(theirs(base, seed=9), tmp_path).eval()
    close(their_logits(loaded), our_logits(model))
    close(their_logits(loaded.merge_and_unload()), our_logits(model))


@pytest.mark.parametrize("targets", [("W_query",), ("W_query", "W_value"), (*QKV, "fc1")])
def test_an_exported_adapter_comes_back_as_it_was(tmp_path, base, targets):  # noqa: F811
    model = trained(base, targets=targets, variant="dora")
    export_peft(model, tmp_path, str(base[1]))
    again = ours(base, seed=5)
    settings = import_peft(again, tmp_path)
    assert (settings["rank"], settings["variant"]) == (3, "dora")
    assert set(settings["targets"]) == set(targets)  # what was not adapted is not
    for name, layer in lora_layers(model).items():
        for key, tensor in layer.lora.state_dict().items():
            found = again.get_submodule(name).lora.state_dict()[key]
            torch.testing.assert_close(found, tensor, atol=1e-7, rtol=1e-6)
    close(our_logits(again), our_logits(model))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True, "lora_dropout": 0.2},
        {"layers_to_transform": [1], "target_modules": ["c_attn", "c_fc"]},
    ],
    ids=str,
)
@torch.no_grad()
def test_ours_gives_the_logits_of_what_peft_trained(tmp_path, base, settings):  # noqa: F811
    with torch.enable_grad():
        twin = trained_by_peft(base, tmp_path, use_dora=True, **settings)
    model = ours(base)
    import_peft(model, tmp_path)
    close(our_logits(model), their_logits(twin))
    for name, tensor in model.body.state_dict().items():  # the base is left alone
        if ".lora." not in name:
            assert torch.equal(tensor, base[0][name.replace(".linear.", ".")])
    merge(model)
    close(our_logits(model), their_logits(twin))


def test_rows_that_are_only_stretched_are_kept(tmp_path, base):  # noqa: F811
    """A fused layer whose B says nothing of the key, and whose magnitudes do."""
    twin = trained_by_peft(base, tmp_path, use_dora=True)
    tensors, metadata = read_tensors(tmp_path / "adapter_model.safetensors")
    d = TINY.emb_dim
    for name, tensor in tensors.items():
        if name.endswith("c_attn.lora_B.weight"):
            tensor[d : 2 * d] = 0
    write_tensors(tmp_path / "adapter_model.safetensors", tensors, metadata)
    twin.load_adapter(tmp_path, "cut")
    twin.set_adapter("cut")
    model = ours(base)
    assert "W_key" in import_peft(model, tmp_path)["targets"]
    close(our_logits(model), their_logits(twin.eval()))


def test_peft_goes_on_training_it(tmp_path, base):  # noqa: F811
    from peft import PeftModel

    export_peft(trained(base, variant="dora"), tmp_path, str(base[1]))
    assert read_json(tmp_path / "adapter_config.json")["use_dora"] is True
    loaded = PeftModel.from_pretrained(theirs(base), tmp_path, is_trainable=True)
    before = their_logits(loaded)
    train(loaded, their_logits, steps=3)
    assert (their_logits(loaded) - before).abs().max() > 0.01
    loaded.save_pretrained(tmp_path / "again")
    model = ours(base)
    import_peft(model, tmp_path / "again")
    close(our_logits(model), their_logits(loaded))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop(MAGNITUDE), "lora_magnitude_vector of h.0.attn.c_attn is missing"),
        (lambda t: t.update({MAGNITUDE: torch.ones(95)}), r"has shape \[95\], not \[96\]"),
        (lambda t: t[MAGNITUDE].fill_(torch.inf), "not finite"),
    ],
)
def test_magnitudes_that_do_not_fit_are_named(tmp_path, base, change, message):  # noqa: F811
    export_peft(trained(base, variant="dora"), tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors, _ = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors)
    refused(base, tmp_path, message)
