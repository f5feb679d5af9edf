"""One fine-tuning run, from options to a folder: load, split, adapt, train, measure, save."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import sklearn.metrics  # noqa: F401  imported here, not in the middle of a run that is measured
import torch

from llm.data.batching import Encoded, encode_messages, steps_per_epoch
from llm.data.messages import Collection, load_task
from llm.data.splits import Splits, describe, split
from llm.data.tsv import Message, read_labelled
from llm.formats.base import load_config, load_tokenizer
from llm.formats.base_in_codes import load_known_base
from llm.formats.record import RUN, BaseRecord, RunRecord, read_record
from llm.inference.evaluation import best_threshold, classification_metrics, classify, f1_at
from llm.lora.methods import apply_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.training import distributed
from llm.training.checkpoint import CHECKPOINT
from llm.training.classification import ClassificationTask
from llm.training.compiling import refuse_on
from llm.training.device import keep_freed_memory, pick_device
from llm.training.fitting import RECORDED_WIDTH, Fitting
from llm.training.prefix import PAD_TO
from llm.training.settings import LEARNING_RATES as LEARNING_RATES  # offered here too
from llm.training.settings import FinetuneSettings
from llm.training.voices import learn_to_write
from llm.utils.errors import InputError
from llm.utils.files import locked_folder, remove
from llm.utils.paths import EVERYDAY


@dataclass(frozen=True)
class Prepared:
    """The messages of a run, ready for the model."""

    collection: Collection
    splits: Splits
    train: Encoded
    validation: Encoded
    test: Encoded
    cut_anew: Callable[[int], Encoded] | None  # the training messages of an epoch, by BPE-dropout

    def report(self) -> str:
        """What was read, removed and cut, for people."""
        cut = sum(part.cut for part in (self.train, self.validation, self.test))
        lines = describe(self.collection, self.splits)
        return lines + (f"\n{cut} messages are longer than the context and were cut" if cut else "")


def prepare_messages(settings: FinetuneSettings, tokenizer, context_length: int) -> Prepared:
    """Load, deduplicate, split and tokenize the messages of a run."""
    collection = load_task(settings.task, settings.data)
    splits = split(
        collection,
        settings.split_seed,
        settings.balanced,
        settings.limit,
        settings.variants_together,
    )
    if settings.all_messages:
        splits = Splits(list(collection.messages), [], [])
    if settings.hold_out:  # for a choice that may know of nothing but the training messages
        train, *held_out = split(
            replace(collection, messages=tuple(splits.train)),
            settings.split_seed,
            variants_together=settings.variants_together,
        )
        splits = Splits(train, sum(held_out, []), splits.test)

    def encode(messages: list[Message], **dropout) -> Encoded:
        texts, labels = [m.text for m in messages], [m.label for m in messages]
        return encode_messages(tokenizer, texts, labels, context_length, **dropout)

    def cut_anew(epoch: int) -> Encoded:
        seed = f"{settings.seed} {epoch}"
        return encode(splits.train, bpe_dropout=settings.bpe_dropout, seed=seed)

    return Prepared(
        collection, splits, *map(encode, splits), cut_anew if settings.bpe_dropout else None
    )


def build_classifier(
    settings: FinetuneSettings, device: str
) -> tuple[GPTClassifier, int, BaseRecord]:
    """The base with a fresh head, made trainable as the method says.

    The head depends on the seed alone, so that all methods start from the same one.

    Returns:
        (the model, how many of its blocks stay frozen, the record of its base)
    """
    origin = (settings.model, settings.weights, settings.seed)
    body, mark = load_known_base(*origin, quantize=settings.lora.quantize)
    base = BaseRecord(*origin, mark)
    torch.manual_seed(settings.seed)
    model = GPTClassifier(body.config, body=body, pool=settings.pool)
    start = apply_method(model, settings.method, settings.lora)
    return model.to(device), start, base


def finetune(
    settings: FinetuneSettings,
    out: str | Path,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = True,
    report: bool = True,
    graphs: bool = True,
    compiled: bool | None = None,
) -> RunRecord:
    """Run it, and leave a folder that `llm.formats.finetuned.load_finetuned` reads.

    Args:
        quiet: print nothing on stderr; otherwise progress, and with `report` what was read.
        graphs: let a GPU record its steps; without, it takes them one kernel at a time.
        compiled: whether to compile the blocks, on a GPU; None: where it pays.

    Returns:
        the folder's record; its `results` are a run of `results.json`.

    Raises:
        InputError: for bad options or data, a folder in use, a full disk, a loss that is not
            finite.
    """
    out = Path(out)
    if compiled:
        refuse_on(pick_device(device))
    with distributed.team(), locked_folder(out) if distributed.is_main_process() else nullcontext():
        if resume and (record := _finished(settings, out)):
            return record
        fitting = Fitting(settings, out, resume, pick_device(device), quiet, graphs, compiled)
        return _finetune(fitting, report)


def _finished(settings: FinetuneSettings, out: Path) -> RunRecord | None:
    """The record of a run that is done; None where there is something to go on with."""
    if not (out / RUN).exists():
        return None
    record = read_record(out)
    if record.settings == json.loads(json.dumps(settings.to_dict())):
        if distributed.is_main_process():
            remove(out / CHECKPOINT)  # killed between its last two actions
        return record
    if (out / CHECKPOINT).exists():
        return None  # a second run into this folder, killed before it replaced the first
    raise InputError(
        f"{out} holds a finished run with other options; choose another folder", settings=("out",)
    )


def _finetune(fitting: Fitting, report: bool) -> RunRecord:
    import torch._dynamo  # noqa: F401  66 MB that AdamW would load while the run is measured

    keep_freed_memory()
    settings = fitting.settings
    if settings.writes:
        return learn_to_write(fitting, report)
    config = load_config(settings.model)
    tokenizer = load_tokenizer(settings.model, config.vocab_size)
    data = prepare_messages(settings, tokenizer, config.context_length)
    # From here on memory grows by what the method needs, and by nothing else.
    before = fitting.memory_in_use()
    model, start, base = build_classifier(settings, fitting.device)
    if report and not fitting.quiet and distributed.is_main_process():
        print(data.report(), file=sys.stderr)
    if settings.method == "lora" and start:
        # What the frozen blocks make of a message is then the same in any batch, to the last bit,
        # and so is training on it. Messages that are cut into other tokens each epoch, or dropout,
        # leave nothing to keep: the frozen blocks then run at each step, without a backward pass.
        model.pad_to = PAD_TO
        start = 0 if data.cut_anew or config.drop_rate else start
    started = time.perf_counter()
    task = ClassificationTask(  # sends the messages through the frozen blocks, if there are any
        model,
        data.train,
        data.validation,
        settings.batch_size,
        settings.seed,
        start,
        RECORDED_WIDTH if fitting.on_gpu else 1,
        settings.lm_loss,
        data.cut_anew,
    )
    history, results = fitting.train(
        model,
        task,
        base,
        data.collection.sha256,
        len(data.train),
        steps_per_epoch(len(data.train), settings.batch_size),
        before,
        cuda_graphs=not start,  # kept hidden states come in too many shapes
        prefix_seconds=time.perf_counter() - started if start else 0.0,
    )
    if not settings.all_messages:
        # On a GPU other weights were evaluated: rounded to bfloat16 as long as they are frozen.
        same = settings.keep == "last" and not fitting.on_gpu
        known = task.on_validation if same else None
        results |= measured(model, data.validation, data.test, known)
    if everyday := everyday_messages(settings):
        results["everyday"] = metrics_on(model, encode_all(everyday, tokenizer, config))
    labels = list(data.collection.labels)
    return fitting.save(model, base, history, results, data_record(data), labels, settings.pool)


def metrics_on(model: GPTClassifier, messages: Encoded) -> dict:
    """The metrics of a model on labelled messages."""
    return classification_metrics(messages.labels, classify(model, messages)[:, 1])


def measured(
    model: GPTClassifier,
    validation: Encoded,
    test: Encoded,
    on_validation: torch.Tensor | None = None,
) -> dict:
    """Metrics on validation and test messages, and F1 at the threshold chosen on validation.

    Args:
        on_validation: probabilities of the positive class, where they are known already.
    """
    if on_validation is None:
        on_validation = classify(model, validation)[:, 1]
    on_test = classify(model, test)[:, 1]
    threshold = best_threshold(validation.labels, on_validation)
    metrics = classification_metrics(test.labels, on_test)
    return {
        "threshold": threshold,
        "validation": classification_metrics(validation.labels, on_validation),
        "test": {**metrics, "f1_at_threshold": f1_at(test.labels, on_test, threshold)},
    }


def everyday_messages(settings: FinetuneSettings) -> list[Message]:
    """The project's own hundred messages, where a run is about the collection's spam; else none."""
    if settings.task != "spam" or settings.data not in (None, "installed", "full"):
        return []
    return read_labelled(EVERYDAY) if EVERYDAY.exists() else []


def encode_all(messages: list[Message], tokenizer, config: GPTConfig) -> Encoded:
    """Labelled messages as token ids for a model of a shape."""
    texts, labels = [m.text for m in messages], [m.label for m in messages]
    return encode_messages(tokenizer, texts, labels, config.context_length)


def data_record(data: Prepared) -> dict:
    """The `data` object of `results.json`."""
    counts = {name: len(getattr(data, name)) for name in ("train", "validation", "test")}
    return {**data.collection.record(), **counts, "cut": data.train.cut}
