"""A base of a few thousand weights in a folder, and messages any model can learn, for tests."""

import json
from pathlib import Path

import torch

from llm.data.tokenizer import mini_tokenizer
from llm.lora.methods import LoRASettings
from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.training.finetuning import FinetuneSettings, finetune
from llm.training.pretraining import save_base
from llm.utils.files import sha256_of_file

SMALL = GPTConfig(vocab_size=8192, context_length=48, emb_dim=16, n_heads=2, n_layers=2)


def write_base(folder: Path, seed: int = 0, config: GPTConfig = SMALL) -> Path:
    torch.manual_seed(seed)
    model = GPTModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # random weights of the usual size answer much the same to anything
    save_base(folder, config, model.state_dict(), mini_tokenizer())
    return folder


def write_messages(path: Path, count: int = 60) -> Path:
    """`count` made-up messages, a third of them spam, no two alike; some ask something."""
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    lines = []
    for number in range(count):
        name = f"{words[number % 6]} {words[number // 6 % 6]} {'abcdefghij'[number // 36]}"
        if number % 3 == 0:
            lines.append(f"spam\tWIN a free {name} prize, call now!")
        else:
            lines.append(f"ham\tsee you at {name} tonight{'?' if number % 2 else ''}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_adapter(
    folder: Path, base: Path, messages: Path, task="spam", resume=False, pool="mean", **lora
) -> Path:
    """An adapter from a run of one epoch at a high rate, so that it does something."""
    settings = FinetuneSettings(
        lora=LoRASettings(**{"rank": 2, "alpha": 4, **lora}),
        model=str(base),
        data=str(messages),
        task=task,
        pool=pool,
        epochs=1,
        batch_size=8,
        lr=0.05,
    )
    finetune(settings, folder, resume, device="cpu")
    return folder


def change_record(folder: Path, **changes) -> None:
    """Other entries in a folder's run.json."""
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def sign(folder: Path) -> None:
    """Make the adapter in a folder pass for the one that was written with its run.json."""
    change_record(folder, weights_sha256=sha256_of_file(folder / "adapter.safetensors"))
