"""How likely documents are to a language model: log-probabilities, and bits a byte with a spread.

A document is likely where each of its tokens is, given those before it: the logarithms add up.
Counted are all of its tokens and the end-of-text token behind them; they come after one before
them (`llm.data.documents`).
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from llm.data.batching import Batch, collate, sorted_batches
from llm.data.documents import EncodedDocuments, encode_documents, masked, read_documents_of
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPTModel
from llm.model.layouts import lay_out, read_all
from llm.utils.errors import InputError, NotFinite

PLACES = 512  # whose scores are held at once: 100 MB with GPT-2's vocabulary


@torch.no_grad()
def row_log_probabilities(body: GPTModel, batch: Batch) -> torch.Tensor:
    """log p of each row's tokens after the first, in nats: (batch,), float64."""
    x, layout = lay_out(body, batch.ids, batch.lengths)
    x, targets = layout.next_tokens(read_all(body, x, layout), batch.ids)  # (places, emb_dim)
    nats = [
        F.cross_entropy(body.logits(some).float(), wanted, ignore_index=-100, reduction="none")
        for some, wanted in zip(x.split(PLACES), targets.split(PLACES))
    ]
    return -layout.sums(torch.cat(nats).double())


def log_probabilities(
    body: GPTModel, documents: EncodedDocuments, token_budget: int = 2048
) -> torch.Tensor:
    """log p of each document, in nats.

    Args:
        body: a language model, in evaluation mode.
        token_budget: tokens in a batch at most, padding included.

    Returns:
        (documents,), float64, on the CPU, in the order the documents came.
    """
    device = next(body.parameters()).device
    found = torch.zeros(len(documents), dtype=torch.float64)
    lengths = [len(ids) for ids in documents.pieces.ids]
    for indices in sorted_batches(lengths, token_budget):
        batch = collate(documents.pieces, indices, device)
        owners = torch.tensor([documents.document[index] for index in indices])
        found.index_add_(0, owners, row_log_probabilities(body, batch).cpu())
    return found


def bits_per_byte_metrics(log_p: torch.Tensor, n_bytes: Sequence[int]) -> dict:
    """Bits a byte of documents, together and one by one.

    Args:
        log_p: (documents,) in nats, as `log_probabilities` returns it.
        n_bytes: of each document.

    Returns:
        `bits_per_byte`: all bits by all bytes, which a long document weighs more in;
        `bits_per_byte_mean` and `bits_per_byte_std`: over the documents, each counted alike (the
        standard deviation with n - 1, None for a single one); `documents`, `bytes`.

    Raises:
        InputError: no document, or an empty one.
    """
    if not n_bytes or min(n_bytes) < 1:
        raise InputError("bits a byte need documents of at least one byte")
    bits = -log_p.double() / math.log(2)
    each = bits / torch.tensor(n_bytes)
    return {
        "bits_per_byte": float(bits.sum()) / sum(n_bytes),
        "bits_per_byte_mean": float(each.mean()),
        "bits_per_byte_std": float(each.std()) if len(each) > 1 else None,
        "documents": len(n_bytes),
        "bytes": sum(n_bytes),
    }


def measure_documents(body: GPTModel, documents: EncodedDocuments) -> dict:
    """`bits_per_byte_metrics` of documents, and `loss` in nats a predicted token.

    Raises InputError when the model's answers are not finite numbers.
    """
    log_p = log_probabilities(body, documents)
    if not torch.isfinite(log_p).all():
        raise NotFinite("the model's answers are not finite numbers: its weights are damaged")
    predicted = sum(len(ids) - 1 for ids in documents.pieces.ids)
    metrics = bits_per_byte_metrics(log_p, documents.n_bytes)
    return {**metrics, "loss": -float(log_p.sum()) / predicted}


def measure_text_file(
    body: GPTModel, tokenizer: Tokenizer, path: str | Path, mask_digits: bool = False
) -> dict:
    """`measure_documents` of a text file, copies included: it measures what it is given.

    Args:
        mask_digits: read 0 for every digit, as a model that was trained so has to; the bytes are
            then easier to predict, so `digits_masked` stands among the metrics.

    Raises:
        InputError: as `llm.data.documents.read_documents_of` does.
    """
    documents, _ = read_documents_of(path)
    texts = [masked(text) for text in documents] if mask_digits else documents
    encoded = encode_documents(tokenizer, texts, body.config.context_length)
    return {**measure_documents(body, encoded), "digits_masked": mask_digits}
