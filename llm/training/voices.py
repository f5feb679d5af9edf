"""One training of a voice, from options to a folder: documents, base, method, training, bits."""

import sys
import time
from dataclasses import dataclass

import torch

from llm.data.batching import steps_per_epoch
from llm.data.documents import PARTS, EncodedDocuments, Texts, encode_documents, load_texts
from llm.data.tokenizer import Tokenizer
from llm.formats.base import load_config, load_tokenizer
from llm.formats.base_in_codes import load_known_base
from llm.formats.record import BaseRecord, RunRecord
from llm.inference.log_probabilities import measure_documents
from llm.lora.methods import apply_method
from llm.model.gpt import GPTModel
from llm.training import distributed
from llm.training.fitting import RECORDED_WIDTH, Fitting
from llm.training.prefix import PAD_TO
from llm.training.settings import FinetuneSettings
from llm.training.writing import WritingTask


@dataclass(frozen=True)
class PreparedTexts:
    """The documents of a run, ready for the model."""

    texts: Texts
    train: EncodedDocuments
    validation: EncodedDocuments
    test: EncodedDocuments

    def record(self) -> dict:
        """The `data` object of run.json."""
        return {**self.texts.record, "tokens": sum(map(len, self.train.pieces.ids))}


def prepare_texts(
    settings: FinetuneSettings, tokenizer: Tokenizer, context_length: int
) -> PreparedTexts:
    """Read, split and tokenize the documents of a run. Raises InputError as `load_texts` does."""
    texts = load_texts(
        settings.text,
        settings.data,
        settings.split_seed,
        settings.variants_together,
        settings.limit,
        settings.all_messages,
        settings.mask_digits,
    )
    parts = (getattr(texts, name) for name in PARTS)
    return PreparedTexts(
        texts, *(encode_documents(tokenizer, part, context_length) for part in parts)
    )


def build_voice(settings: FinetuneSettings, device: str) -> tuple[GPTModel, int, BaseRecord]:
    """The base, made trainable as the method says, how many blocks stay frozen, and its record."""
    origin = (settings.model, settings.weights, settings.seed)
    model, mark = load_known_base(*origin, quantize=settings.lora.quantize)
    base = BaseRecord(*origin, mark)
    torch.manual_seed(settings.seed)
    start = apply_method(model, settings.method, settings.lora)
    return model.to(device), start, base


def learn_to_write(fitting: Fitting, report: bool) -> RunRecord:
    """Run it. Called by `llm.training.finetuning.finetune`, which holds the folder.

    Returns:
        the folder's record; its results hold `llm.inference.log_probabilities`' metrics as
        `validation` and `test`.
    """
    settings = fitting.settings
    config = load_config(settings.model)
    tokenizer = load_tokenizer(settings.model, config.vocab_size)
    data = prepare_texts(settings, tokenizer, config.context_length)
    before = fitting.memory_in_use()
    model, start, base = build_voice(settings, fitting.device)
    if report and not fitting.quiet and distributed.is_main_process():
        print(data.texts.report(), file=sys.stderr)
    width = RECORDED_WIDTH if fitting.on_gpu else 1
    pad_to = PAD_TO if start else 1  # then a document is the same in any batch, to the last bit
    start = 0 if config.drop_rate else start
    started = time.perf_counter()
    task = WritingTask(  # sends the documents through the frozen blocks, if there are any
        model, data.train, data.validation, settings.batch_size, settings.seed, width, start, pad_to
    )
    history, results = fitting.train(
        model,
        task,
        base,
        data.texts.record["sha256"],
        len(data.train),
        steps_per_epoch(len(data.train.pieces), settings.batch_size),
        before,
        cuda_graphs=not start,  # kept hidden states come in too many shapes
        prefix_seconds=time.perf_counter() - started if start else 0.0,
    )
    if not settings.all_messages:
        # On a GPU other weights were evaluated: rounded to bfloat16 as long as they are frozen.
        known = None if fitting.on_gpu else kept_evaluation(history)
        results["validation"] = known or measure_documents(model, data.validation)
        results["test"] = measure_documents(model, data.test)
    return fitting.save(model, base, history, results, data.record(), labels=[])


def kept_evaluation(history: dict) -> dict | None:
    """What was measured on validation when the weights were those that were kept; None: never."""
    evaluations = history["evaluations"]
    kept = history["best_step"] or (evaluations[-1]["step"] if evaluations else None)
    for evaluation in evaluations:
        if evaluation["step"] == kept:
            return {key: x for key, x in evaluation.items() if key not in ("step", "score")}
    return None
