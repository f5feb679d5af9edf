"""Voices to and from peft and transformers: the same logits, the same greedy tokens."""

import json

import pytest
import torch
import torch.nn.functional as F
from small import SMALL, write_base, write_messages
from test_cli import refused, run

from llm.formats.base import load_base, load_tokenizer
from llm.formats.export import export_folder
from llm.formats.finetuned import load_finetuned
from llm.formats.peft_import import import_peft
from llm.formats.transformers import export_transformers
from llm.inference.generate import generate
from llm.lora.settings import LoRASettings
from llm.model.classifier import GPTClassifier
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import read_json, read_tensors, write_json, write_tensors

IDS = torch.randint(8192, (3, 11), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base in the format of transformers, which both sides load."""
    ours = write_base(tmp_path_factory.mktemp("ours"))
    folder = tmp_path_factory.mktemp("base")
    export_transformers(load_base(ours), load_tokenizer(ours), folder)
    return folder


@pytest.fixture(scope="module")
def voice(base, tmp_path_factory):
    where = tmp_path_factory.mktemp("voice")
    settings = FinetuneSettings(
        lora=LoRASettings(rank=3, alpha=5, targets=["W_query", "W_value", "fc1", "fc2"]),
        model=str(base),
        task="writing",
        text=["spam"],
        data=str(write_messages(where / "messages.tsv")),
        epochs=1,
        batch_size=4,
        lr=0.1,
    )
    finetune(settings, where / "folder", device="cpu")
    return where / "folder"


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def same(theirs, ours) -> None:
    """The same logits, and the same tokens chosen from them, one after the other."""
    theirs.eval()
    with torch.no_grad():
        close(theirs(input_ids=IDS).logits, ours(IDS))
    chosen = theirs.generate(
        input_ids=IDS, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0
    )
    assert torch.equal(chosen, generate(ours, IDS, 12))


def test_peft_and_transformers_give_our_logits_and_tokens(voice, tmp_path):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    ours, _, _ = load_finetuned(voice)
    export_folder("peft", tmp_path / "peft", voice)
    config = read_json(tmp_path / "peft" / "adapter_config.json")
    assert config["task_type"] == "CAUSAL_LM" and config["modules_to_save"] is None
    names = set(read_tensors(tmp_path / "peft" / "adapter_model.safetensors")[0])
    assert all(".lora_" in name and ".transformer.h." in name for name in names)
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft")
    assert type(adapted.base_model.model).__name__ == "GPT2LMHeadModel"
    same(adapted, ours)
    same(adapted.merge_and_unload(), ours)
    export_folder("transformers", tmp_path / "plain", voice)
    same(AutoModelForCausalLM.from_pretrained(tmp_path / "plain"), ours)


def test_a_text_generation_pipeline_writes_what_we_write(voice, tmp_path):
    from transformers import pipeline

    ours, tokenizer, _ = load_finetuned(voice)
    export_folder("transformers", tmp_path, voice)
    pipe = pipeline("text-generation", str(tmp_path), device="cpu")
    prompt = "WIN a free prize"
    [found] = pipe(prompt, do_sample=False, max_new_tokens=10, return_full_text=False)
    start = torch.tensor([tokenizer.encode(prompt)])  # the pipeline begins with no other token
    new = generate(ours, start, 10, stop=tokenizer.eot_id)[0, start.shape[1] :].tolist()
    assert found["generated_text"] == tokenizer.decode([t for t in new if t != tokenizer.eot_id])


def trained_by_peft(model, targets, loss, folder, **more):
    """A short real training in peft, saved as peft saves."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=7, target_modules=targets, fan_in_fan_out=True, **more)
    adapted = get_peft_model(model, config)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=0.03)
    for _ in range(5):
        loss(adapted).backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval().save_pretrained(folder)
    return adapted


def their_voice(base, folder, targets=("c_attn", "attn.c_proj", "c_fc"), **more):
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(base)
    return trained_by_peft(
        model,
        list(targets),
        lambda adapted: adapted(input_ids=IDS, labels=IDS).loss,
        folder,
        task_type="CAUSAL_LM",
        **more,
    )


@pytest.mark.parametrize("more", [{}, {"layers_to_transform": [1], "use_rslora": True}])
def test_import_makes_a_voice_of_what_peft_trained(base, tmp_path, more):
    theirs = their_voice(base, tmp_path / "peft", **more)
    start = ("import", "--from", tmp_path / "peft", "--model", base, "--out", tmp_path / "voice")
    assert json.loads(run(*start, "--json").stdout)["task"] == "writing"
    ours, _, record = load_finetuned(tmp_path / "voice", writes=True)
    assert (record.method, record.labels, record.lora.rank) == ("lora", [], 3)
    same(theirs, ours)
    plain = load_base(base)
    assert (plain(IDS) - ours(IDS)).abs().max() > 0.1  # it does something
    done = run("generate", "--from", tmp_path / "voice", "WIN", "--tokens", "3", "--device", "cpu")
    assert done.returncode == 0 and done.stdout.startswith("WIN")
    export_folder("peft", tmp_path / "again", tmp_path / "voice")  # and back through the door
    third = load_base(base)
    import_peft(third, tmp_path / "again")
    close(third(IDS), ours(IDS))


def test_import_makes_a_classifier_of_what_peft_trained(base, tmp_path):
    from transformers import GPT2ForSequenceClassification

    model = GPT2ForSequenceClassification.from_pretrained(base, num_labels=2)
    labels = torch.tensor([0, 1, 1])
    theirs = trained_by_peft(
        model,
        ["c_attn"],
        lambda adapted: F.cross_entropy(adapted(input_ids=IDS).logits, labels),
        tmp_path / "peft",
        task_type="SEQ_CLS",
    )
    start = ("import", "--from", tmp_path / "peft", "--model", base, "--out", tmp_path / "ours")
    assert run(*start).returncode == 0
    ours, _, record = load_finetuned(tmp_path / "ours", writes=False)
    assert (record.task, record.labels, record.pool) == ("spam", ["ham", "spam"], "last")
    with torch.no_grad():
        close(ours(IDS, torch.tensor([11] * 3)), theirs(input_ids=IDS).logits)
    start = (*start, "--overwrite")
    assert run(*start, "--labels", "cold, hot").returncode == 0
    [answer] = json.loads(run("predict", "--from", tmp_path / "ours", "--json", "x").stdout)
    assert answer["label"] in ("cold", "hot")
    for labels in ("one", "a,a", "a,", "a,b,c"):
        refused(run(*start, "--labels", labels), "two labels", "(--labels)")


def test_what_cannot_be_imported_is_one_line(base, tmp_path):
    their_voice(base, tmp_path / "peft")
    folder, config = tmp_path / "peft", read_json(tmp_path / "peft" / "adapter_config.json")
    tensors, _ = read_tensors(folder / "adapter_model.safetensors")
    out = tmp_path / "out"
    start = ("import", "--from", folder, "--out", out, "--model")
    refused(run(*start, "mini"), "do not fit a layer of 256 inputs")
    refused(run("import", "--from", folder, "--out", folder, "--model", base), "(--out)")
    refused(run("import", "--from", base, "--out", out), "adapter_config.json does not exist")
    with pytest.raises(InputError, match="task_type is 'CAUSAL_LM'; this model takes SEQ_CLS"):
        import_peft(GPTClassifier(SMALL), folder)
    for task in (None, "SEQ_2_SEQ_LM"):
        write_json(folder / "adapter_config.json", {**config, "task_type": task})
        refused(run(*start, base), "SEQ_CLS and CAUSAL_LM can be read")
    write_json(folder / "adapter_config.json", config)
    head = {"base_model.model.lm_head.weight": torch.zeros(8192, 16)}  # an untied output layer
    write_tensors(folder / "adapter_model.safetensors", tensors | head)
    refused(run(*start, base), "lm_head.weight cannot be read; only LoRA layers can")
    assert not (out / "run.json").exists()
