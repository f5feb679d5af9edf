"""One training step of this project and of its peers, for `llm.benchmark`.

Every contender gets the same messages, the same shape and the same optimizer (AdamW), and does
what it does when used as its authors show it:

* `ours`: this project;
* `naive`: this project with `LinearWithLoRA` as it is read, not fused;
* `book`: `llms-from-scratch` (Raschka 2024, appendix E): every message padded to the longest of
  all, the class scores computed for every token;
* `book-fast`: the same with its `GPTModelFast`;
* `peft-padded`: `transformers` with `peft`, every message padded to the longest of all;
* `peft`: the same, each batch padded to its own longest message only;
* `peft-tanh`: `peft` with PyTorch's tanh GELU in place of the one in Python that GPT-2 brings;
* `bitsandbytes`: `peft-tanh` beside W in four bits (`llm.benchmark.peers_in_bits`);
* `bitsandbytes-lean`: the same with embeddings and LayerNorms left in bfloat16.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from llm.benchmark.peers_in_bits import four_bits, random_classifier
from llm.data.batching import Batch, Encoded, batch_indices, collate, encode_messages
from llm.lora.methods import LoRASettings, apply_method
from llm.model.config import PRESETS, GPTConfig
from llm.training.device import autocast
from llm.training.graphs import CUDAGraphSteps, RecordedUpdate
from llm.training.settings import TrainSettings
from llm.training.speed import (
    compile_blocks,
    keep_frozen_in_bfloat16,
    recompute_all,
    recompute_cheap,
)
from llm.training.step import make_optimizer
from llm.utils.errors import InputError

# Distribution, module, how to get it. None of them is needed to run this project.
NEEDS = {
    "book": ("llms-from-scratch==1.0.19", "llms_from_scratch", "pip install --no-deps"),
    "peft": ("peft transformers", "peft", "pip install"),
    "bitsandbytes": ("bitsandbytes peft transformers", "bitsandbytes", "pip install"),
}


@dataclass(frozen=True)
class Job:
    """One contender's run."""

    contender: str = "ours"
    shape: str = "mini"
    method: str = "lora"  # peers: lora alone
    rank: int = 16
    batch_size: int = 8
    steps: int = 5
    warm_up: int = 1
    width: int = 0  # tokens to pad to, with random ids; 0: real messages
    layers: int = 0  # 0: as many as the shape has
    device: str = "cpu"
    precision: str = "fp32"  # "bf16": weights too; "autocast": products alone
    compile: bool = False
    record: bool = False
    recompute: str = "nothing"  # or "cheap", "all"
    account: bool = False  # compare the memory account with what was measured
    variant: str = "lora"  # or "dora"
    quantize: str | None = None  # "nf4", "int8"
    import_first: bool = False  # leave a peer's libraries out of its memory on a CPU

    @property
    def config(self) -> GPTConfig:
        """The shape of the model."""
        config = PRESETS[self.shape]
        return replace(config, n_layers=self.layers) if self.layers else config


def missing(contender: str) -> str | None:
    """Why a contender cannot run here, or None."""
    family = contender.partition("-")[0]
    if family not in NEEDS or importlib.util.find_spec(NEEDS[family][1]):
        return None
    distribution, _, command = NEEDS[family]
    return f"{contender} is skipped: it needs `{command} {distribution}`"


@dataclass
class Step:
    """A contender at work: `run(i)` takes optimizer step `i`."""

    model: nn.Module
    run: Callable[[int], torch.Tensor]
    loss: Callable[[int], torch.Tensor]  # the forward pass of step i alone
    tokens: Callable[[int], int]  # real tokens of step i


def prepare(job: Job) -> Step:
    """Build the contender with random weights, on its device."""
    torch.manual_seed(0)
    family = job.contender.partition("-")[0]
    make = {"ours": _ours, "naive": _ours, "book": _book, "peft": _peft, "bitsandbytes": _peft}
    if family not in make:
        raise InputError(f"unknown contender {job.contender!r}")
    return make[family](job)


@cache
def real_messages(shape: str) -> Encoded:
    """Training messages of the spam task, as token ids for a shape."""
    from llm.data.messages import load_task
    from llm.data.splits import split
    from llm.formats.base import load_tokenizer

    messages = split(load_task("spam"), 0).train
    try:
        tokenizer = load_tokenizer("mini" if shape == "mini" else "gpt2")
    except InputError:  # GPT-2's vocabulary is not here: other ids, about as many
        tokenizer = load_tokenizer("mini")
    texts, labels = [m.text for m in messages], [m.label for m in messages]
    return encode_messages(tokenizer, texts, labels, PRESETS[shape].context_length)


def _batch(job: Job, step: int, pad_to_longest_of_all: bool = False) -> Batch:
    if job.width:
        generator = torch.Generator().manual_seed(step)
        shape = (job.batch_size, job.width)
        ids = torch.randint(0, job.config.vocab_size, shape, generator=generator)
        lengths = torch.randint(5, job.width + 1, shape[:1], generator=generator)
        labels = torch.randint(0, 2, shape[:1], generator=generator)
        return Batch(*(tensor.to(job.device) for tensor in (ids, lengths, labels)))
    messages = real_messages(job.shape)
    indices = batch_indices(len(messages), job.batch_size, step, 0)
    width = max(map(len, messages.ids)) if pad_to_longest_of_all else 0
    return collate(messages, indices, job.device, width)


def _with_optimizer(job, model, loss, optimizer, clip_norm=0.0) -> Step:
    trainable = [p for p in model.parameters() if p.requires_grad]

    def run(step: int) -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        if clip_norm:
            nn.utils.clip_grad_norm_(trainable, clip_norm)
        optimizer.step()
        return value.detach()

    return Step(model, run, loss, lambda step: int(_batch(job, step).lengths.sum()))


def _lower_precision(job: Job):
    return autocast(job.device, "fp32" if job.precision == "fp32" else "bf16")


def _ours(job: Job) -> Step:
    with torch.device(job.device):
        model = random_classifier(job.config, job.quantize)
        settings = LoRASettings(job.rank, 16, variant=job.variant)
        apply_method(model, job.method, settings, fast=job.contender != "naive")
    if job.precision == "bf16":
        keep_frozen_in_bfloat16(model)
    if job.recompute != "nothing":
        {"all": recompute_all, "cheap": recompute_cheap}[job.recompute](model)
    if job.compile:
        compile_blocks(model)
    optimizer = make_optimizer(model, TrainSettings(steps=job.steps, lr=1e-4))

    def loss_of(batch: Batch) -> torch.Tensor:
        with _lower_precision(job):
            logits = model(batch.ids, batch.lengths)
        return F.cross_entropy(logits.float(), batch.labels)

    step = _with_optimizer(job, model, lambda i: loss_of(_batch(job, i)), optimizer, 1.0)
    if job.record:
        step.run(0)  # AdamW makes its state at its first step: it belongs to the recording's peak
        trainable = [p for p in model.parameters() if p.requires_grad]
        recorded = CUDAGraphSteps(loss_of, trainable)
        update = RecordedUpdate(optimizer, trainable, 1.0)

        def run(i: int) -> torch.Tensor:
            value = recorded(_batch(job, i))
            update(1e-4)
            return value

        step.run = run
    return step


def _book(job: Job) -> Step:
    from llms_from_scratch.appendix_e import replace_linear_with_lora
    from llms_from_scratch.ch04 import GPTModel, GPTModelFast

    config = {**job.config.to_dict(), "qkv_bias": True}
    with torch.device(job.device):
        model = (GPTModelFast if job.contender == "book-fast" else GPTModel)(config)
        for parameter in model.parameters():
            parameter.requires_grad = False
        model.out_head = nn.Linear(job.config.emb_dim, 2)
        replace_linear_with_lora(model, rank=job.rank, alpha=16)
    if job.precision == "bf16":
        model.to(torch.bfloat16)
    if job.compile:
        model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)

    def loss(step: int) -> torch.Tensor:
        batch = _batch(job, step, pad_to_longest_of_all=True)
        with autocast(job.device, "bf16" if job.precision == "autocast" else "fp32"):
            return F.cross_entropy(model(batch.ids)[:, -1, :], batch.labels)

    return _with_optimizer(job, model, loss, optimizer)


def gpt2_config(shape: GPTConfig, tanh: bool):
    """A shape as `transformers` has it, with no dropout.

    Args:
        shape: of the model to build.
        tanh: whether GELU is PyTorch's, the faster, and not the one in Python that GPT-2 brings.
    """
    import transformers

    return transformers.GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context_length,
        n_embd=shape.emb_dim,
        n_head=shape.n_heads,
        n_layer=shape.n_layers,
        num_labels=2,
        pad_token_id=0,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        **({"activation_function": "gelu_pytorch_tanh"} if tanh else {}),
    )


def _peft(job: Job) -> Step:
    import transformers
    from peft import LoraConfig, get_peft_model

    config = gpt2_config(job.config, tanh=job.contender not in ("peft", "peft-padded"))
    with torch.device(job.device):
        model = transformers.GPT2ForSequenceClassification(config)
    if job.precision == "bf16":
        model.to(torch.bfloat16)
    in_bits = job.contender.startswith("bitsandbytes")
    if in_bits:
        four_bits(model, job.precision, lean=job.contender.endswith("lean"))
    if job.recompute != "nothing":
        config.use_cache = False
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = ["c_attn", "c_proj", "c_fc"]
    settings = LoraConfig(
        task_type="SEQ_CLS",
        r=job.rank,
        lora_alpha=16,
        lora_dropout=0.0,
        target_modules=layers,
        fan_in_fan_out=not in_bits,  # GPT-2's W lies transposed; bitsandbytes' does not
    )
    model = get_peft_model(model, settings)
    model.to(job.device).train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)

    def loss(step: int) -> torch.Tensor:
        batch = _batch(job, step, pad_to_longest_of_all=job.contender == "peft-padded")
        real = torch.arange(batch.ids.shape[1], device=job.device) < batch.lengths[:, None]
        with _lower_precision(job):
            output = model(input_ids=batch.ids, attention_mask=real.long(), labels=batch.labels)
        return output.loss

    return _with_optimizer(job, model, loss, optimizer)
