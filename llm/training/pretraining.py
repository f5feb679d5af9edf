"""Pretraining: learn to predict the next token of ordinary text, from random weights.

Source: Radford et al. 2018, section 3.1. The loop is `llm.training`; here stand what a batch is,
what its loss is, and what is written at the end: a folder that `--model DIR` takes as a base.
"""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from llm.data.corpus import Corpus, bits_per_byte
from llm.data.tokenizer import DESCRIPTION, VOCABULARY, Tokenizer
from llm.data.vocabulary import learn_vocabulary
from llm.formats.base import load_base, load_config, load_tokenizer
from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint
from llm.training import distributed
from llm.training.device import autocast, pick_device
from llm.training.loop import train
from llm.training.settings import PretrainSettings, TrainSettings
from llm.utils.errors import InputError
from llm.utils.files import (
    locked_folder,
    make_folder,
    sha256_of_file,
    write_json,
    write_tensors,
)


class NextTokenLoss(nn.Module):
    """A language model and its loss in one module, so that torch.compile can fuse them.

    With 8,192 tokens to choose from the logits are by far the largest tensor of the model: 131,072
    positions times 8,192 in float32 are 4.3 GB, which a fused loss never writes out.
    """

    def __init__(self, model: GPTModel):
        super().__init__()
        self.model = model

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """(batch, context + 1) ids -> mean cross-entropy in nats a token, a scalar."""
        inputs, targets = windows[:, :-1], windows[:, 1:]  # each token's target is the next one
        logits = self.model(inputs)  # (batch, context, vocab_size)
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class PretrainTask:
    """Batches, loss and validation, as `llm.training.Task` asks for."""

    def __init__(
        self,
        corpus: Corpus,
        validation: Corpus,
        settings: PretrainSettings,
        config: GPTConfig,
        device: str = "cpu",
    ):
        self.device = device
        self.corpus, self.validation, self.settings, self.config = (
            corpus,
            validation,
            settings,
            config,
        )

    def batch(self, step: int, micro_batch: int, micro_batches: int) -> torch.Tensor:
        """Windows of (batch_size / micro_batches, context + 1) ids; together they are the batch."""
        windows = self.corpus.windows(
            length=self.config.context_length + 1,
            count=self.settings.batch_size,
            key=[self.settings.seed, step],
            document_starts=self.settings.document_starts,
            part=micro_batch,
            parts=micro_batches,
        )

        if self.device == "cuda":  # from page-locked memory it is copied while the GPU is at work
            return windows.pin_memory().to(self.device, non_blocking=True)
        return windows.to(self.device)

    def loss(self, model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """This micro-batch's share of the batch's mean loss."""
        return model(batch) * (len(batch) / self.settings.batch_size)

    def evaluate(self, model: NextTokenLoss) -> dict:
        """Loss and bits per byte on the validation text."""
        device = next(model.parameters()).device.type
        context = autocast(device, self.settings.precision)
        metrics = bits_per_byte(model.model, self.validation, context=context)
        return {key: metrics[key] for key in ("loss", "bits_per_byte")}


def pretrain(
    corpus_files: list[str | Path],
    out: str | Path,
    settings: PretrainSettings | None = None,
    config: GPTConfig | None = None,
    validation_files: list[str | Path] = (),
    train_vocabulary: bool = False,
    device: str = "auto",
    resume: bool = False,
    quiet: bool = False,
    from_base: str | Path | None = None,
) -> dict:
    """Train a base, from scratch or from another base, and write it to `out`.

    Under torchrun every process calls this; the batch is shared out over them, and process 0
    writes. A killed run goes on with `resume`.

    Args:
        corpus_files: text, documents separated by a line `<|endoftext|>`; `.xz` is unpacked.
        out: the folder for the base: config.json, model.safetensors (float16), the vocabulary,
            log.json (the loss curve), recipe.json, manifest.json (SHA-256 of each file).
        settings: the recipe; None for that of `mini`.
        config: the shape; None for that of `mini`.
        validation_files: text to measure on; without, every hundredth document is held out.
        train_vocabulary: learn a vocabulary of `config.vocab_size` tokens from the corpus first;
            otherwise the one of `mini` is used.
        from_base: a base to go on from, with its shape and its vocabulary; the optimizer starts
            anew.

    Returns:
        what log.json holds: `curve`, `evaluations`, `train_seconds`, `parameters`,
        `tokens_seen`, `tokens_per_byte` (of the corpus), `tokens_per_second`, `validation`.

    Raises:
        InputError: unreadable text, a vocabulary that does not fit the shape, a loss that is not
            finite, another run in the same folder, a full disk.
    """
    if from_base and train_vocabulary:
        raise InputError(
            "a base to go on from has a vocabulary; it cannot learn another",
            settings=("train_vocabulary",),
        )
    if from_base and Path(from_base).resolve() == Path(out).resolve():
        raise InputError(
            f"{out} is the base to go on from, which is kept as it is; choose another folder",
            settings=("out",),
        )
    config = load_config(from_base) if from_base else config or PRESETS["mini"]
    with distributed.team():
        device = pick_device(device)
        settings = (settings or PretrainSettings()).on(device)
        if settings.batch_size % (settings.accumulate * distributed.world_size()):
            raise InputError(
                f"a batch of {settings.batch_size} windows cannot be shared out over "
                f"{distributed.world_size()} processes in {settings.accumulate} parts each"
            )
        out = make_folder(out)
        source = (corpus_files, out, settings, config, validation_files)
        with locked_folder(out) if distributed.rank() == 0 else nullcontext():
            quiet = quiet or distributed.rank() != 0
            return _pretrain(*source, train_vocabulary, from_base, device, resume, quiet)


def _pretrain(
    files, out, settings, config, validation_files, new_vocabulary, from_base, device, resume, quiet
):
    known = None if new_vocabulary else load_tokenizer(from_base or "mini")
    tokenizer, corpus, validation = _first_by_process_0(
        lambda: _prepare(files, out, config, validation_files, known, settings, quiet)
    )
    if tokenizer.vocab_size != config.vocab_size:
        raise InputError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, the model {config.vocab_size}; "
            "make them equal, or learn a vocabulary from the corpus",
            settings=("train_vocabulary",),
        )
    torch.manual_seed(settings.seed)
    model = load_base(from_base, device=device) if from_base else GPTModel(config).to(device)
    start = fingerprint(model) if from_base else None
    task = PretrainTask(corpus, validation, settings, config, device)
    names = TrainSettings.__dataclass_fields__
    chosen = {key: value for key, value in asdict(settings).items() if key in names}
    identity = {
        "config": config.to_dict(),
        "batch_size": settings.batch_size,
        "document_starts": settings.document_starts,
        "corpus": corpus.made_from,
        "from_base": start,
    }
    history = train(
        NextTokenLoss(model),
        task,
        TrainSettings(**chosen, keep_best=False),
        folder=out,
        resume=resume,
        identity=identity,
        quiet=quiet,
    )
    tokens = settings.steps * settings.batch_size * config.context_length
    history |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": tokens,
        "tokens_per_byte": corpus.n_tokens / corpus.n_bytes,  # makes nats a token bits a byte
        "tokens_per_second": tokens / max(history["train_seconds"], 1e-9),
    }
    half = {name: tensor.half() for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in half.items()})
    history["validation"] = bits_per_byte(model, validation)  # of what is written: rounded, fp32
    if distributed.rank() == 0:
        recipe = {
            "settings": asdict(settings),
            "from_base": {"name": str(from_base), "fingerprint": start} if from_base else None,
            "config": config.to_dict(),
            "corpus": {"tokens": corpus.n_tokens, "bytes": corpus.n_bytes, **corpus.made_from},
            "validation": {"tokens": validation.n_tokens, **validation.made_from},
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if device == "cuda" else device,
            "processes": distributed.world_size(),
        }
        save_base(out, config, half, tokenizer)
        write_json(out / "recipe.json", recipe)
        write_json(out / "log.json", history)
        write_manifest(out)
    return history


def _prepare(files, out, config, validation_files, tokenizer, settings, quiet):
    """The vocabulary and both corpora, in `out/corpus`; what is there already is used again."""
    held_out = "all" if validation_files else "train"
    if tokenizer:
        pass  # the one of `mini`, or of the base to go on from
    else:
        tokenizer = learn_vocabulary(files, out, config.vocab_size, held_out, quiet)
    corpus = Corpus.build(
        files, tokenizer, out / "corpus" / "train", held_out, settings.text_speak, quiet
    )
    validation = Corpus.build(
        validation_files or files,
        tokenizer,
        out / "corpus" / "validation",
        "all" if validation_files else "validation",
        quiet=quiet,
    )
    return tokenizer, corpus, validation


def _first_by_process_0(prepare):
    """Let process 0 prepare the files while the others wait; then they find them ready."""
    if distributed.world_size() == 1:
        return prepare()
    if distributed.rank() == 0:
        ready = prepare()
        torch.distributed.barrier()
        return ready
    torch.distributed.barrier()
    return prepare()


def save_base(folder: str | Path, config: GPTConfig, tensors: dict, tokenizer: Tokenizer) -> None:
    """Write a base: the shape, the weights, the vocabulary."""
    write_json(Path(folder) / "config.json", config.to_dict())
    write_tensors(Path(folder) / "model.safetensors", tensors)
    tokenizer.save(folder)


def write_manifest(folder: str | Path) -> None:
    """SHA-256 of the files that make a base, to tell a damaged copy."""
    names = ("config.json", "model.safetensors", VOCABULARY, DESCRIPTION)
    write_json(
        Path(folder) / "manifest.json",
        {name: sha256_of_file(Path(folder) / name) for name in names},
    )
