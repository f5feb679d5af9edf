"""A fine-tuned model as a folder: what was trained, and how to put it back on its base.

    run.json               the record: base, method, task, labels, settings, metrics
    adapter.safetensors    for `lora`: A, B and the head, kilobytes
    model.safetensors      for the others: the tensors that were trained (`full`: all of them)

The base itself is not stored for `lora`, `head` and `last_block`. It is named, and recognised by a
fingerprint of its weights: an adapter on another base would answer nonsense without a word. So
would an adapter in which a bit has flipped, which is why the record holds its file's SHA-256.
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from llm.data.tokenizer import Tokenizer
from llm.formats.base import load_config, load_tokenizer
from llm.formats.base_in_codes import load_known_base
from llm.formats.record import MEND, RUN, RunRecord, read_record
from llm.formats.stored import FLOATS
from llm.lora.methods import apply_method
from llm.lora.pissa import as_plain_lora
from llm.lora.quantized_linear import quantize_linears
from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.model.parameters import trainable_state
from llm.utils.errors import InputError
from llm.utils.files import (
    make_folder,
    open_tensors,
    remove,
    sha256_of_file,
    write_json,
    write_tensors,
)


def stored_state(model: GPTClassifier | GPTModel) -> dict[str, torch.Tensor]:
    """What a folder holds, by name: all that was trained, and the head in any case.

    With LoRA on the head (`--targets all`) its own weights are random numbers that were never
    trained: no base has them, and A and B mean nothing without them.
    """
    head = {name: p.detach() for name, p in model.named_parameters() if name.startswith("head.")}
    return trainable_state(model) | head


def base_state(body: GPTModel) -> dict[str, torch.Tensor]:
    """A body's weights without its LoRA layers, by the names that they have without them.

    Those in codes are there as `...weight.codes`, and what belongs to them.
    """
    state = body.state_dict().items()
    return {_base_name(name): tensor for name, tensor in state if ".lora." not in name}


def _base_name(name: str) -> str:
    return name.replace(".linear.", ".")


def save_finetuned(
    folder: str | Path, model: GPTClassifier | GPTModel, record: RunRecord
) -> RunRecord:
    """Write what was trained, then `run.json`, which makes the folder complete.

    An old `run.json` goes first: it would describe other tensors if this were cut short.

    Args:
        model: with `requires_grad` still set on what was trained. PiSSA's layers become plain
            LoRA of twice the rank, in place.

    Returns:
        the record as it was written: with the SHA-256 of the tensors' file, and in its results,
        if it has any, the size of that file as `saved_bytes`.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    if record.lora:
        record = replace(record, lora=as_plain_lora(model, record.lora))
    folder = make_folder(folder)
    path = folder / record.weights_file
    remove(folder / RUN)
    write_tensors(path, stored_state(model), {"fingerprint": record.base.fingerprint})
    results = record.results and {**record.results, "saved_bytes": path.stat().st_size}
    record = replace(record, results=results, weights_sha256=sha256_of_file(path))
    write_json(folder / RUN, record.to_dict())
    return record


def load_finetuned(
    folder: str | Path, device: str = "cpu", writes: bool | None = None
) -> tuple[GPTClassifier | GPTModel, Tokenizer, RunRecord]:
    """Put a fine-tuned folder's tensors on their base.

    Args:
        writes: True takes only a model that writes, False only one that tells messages apart.

    Returns:
        (the classifier, or the GPTModel that writes; its tokenizer; the record of its training)

    Raises:
        InputError: no such folder, one of the other kind, a damaged file, another base than it was
            trained on, a tensor missing, of another shape or not finite.
    """
    record = read_record(folder, writes)
    model = outline(folder, record)
    tokenizer = load_tokenizer(record.base.model, record.config.vocab_size)
    base = {} if record.method == "full" else base_state(_load_base(record, device))
    return fill(model, folder, record, base, device), tokenizer, record


def outline(folder: str | Path, record: RunRecord) -> GPTClassifier | GPTModel:
    """The model that a record tells of, on the meta device: shapes, and no numbers yet.

    So no memory is taken before the file of tensors is known to be whole and to justify it.

    Raises InputError when that file is not the one that was written with the record, or does not
    hold tensors of just the names and shapes that the model wants.
    """
    _check_hash(folder, record)
    try:
        with torch.device("meta"):
            body = GPTModel(record.config)
            model = body if record.writes else GPTClassifier(record.config, 2, body, record.pool)
            apply_method(model, record.method, record.lora)
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond what can be counted
        raise InputError(f"{folder}/{RUN} tells of a model too large for any machine") from None
    _check_tensors(stored_state(model), Path(folder) / record.weights_file)
    return model


def check_file(folder: str | Path, record: RunRecord, wanted: dict[str, torch.Tensor]) -> None:
    """Raise InputError as `outline` does, whose `stored_state` is known to be `wanted`."""
    _check_hash(folder, record)
    _check_tensors(wanted, Path(folder) / record.weights_file)


def _check_hash(folder: str | Path, record: RunRecord) -> None:
    path = Path(folder) / record.weights_file
    if record.weights_sha256 not in (None, sha256_of_file(path)):
        raise InputError(f"{path} is damaged (its SHA-256 is not that in {RUN}); {MEND}")


def fill(
    model: GPTClassifier | GPTModel,
    folder: str | Path,
    record: RunRecord,
    base: dict[str, torch.Tensor],
    device: str | torch.device,
) -> GPTClassifier | GPTModel:
    """Give an outline its numbers: a folder's tensors, and the base's for all others.

    Args:
        model: as `outline` made it, for this folder.
        base: tensors as `base_state` names them, float32 or in codes as the record says, on
            `device`. The model uses them themselves, not copies.

    Returns:
        the same model, frozen, ready to answer.

    Raises:
        InputError: values that are not finite numbers.
    """
    state = trained_tensors(folder, record, device)
    for name in model.state_dict():
        if name not in state:
            state[name] = base[_base_name(name.removeprefix("body."))]
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def trained_tensors(
    folder: str | Path, record: RunRecord, device: str | torch.device
) -> dict[str, torch.Tensor]:
    """A folder's tensors by name, float32, copies: the file may change while they are in use.

    Raises InputError when they are not finite numbers.
    """
    path = Path(folder) / record.weights_file
    state = {}
    with open_tensors(path) as reader:
        for name in reader.keys():
            tensor = reader.get_tensor(name).to(torch.float32, copy=True)
            if not torch.isfinite(tensor).all():  # here: asking a GPU means to wait for it
                raise InputError(f"{path}: {name} holds values that are not finite numbers")
            state[name] = tensor.to(device)
    if record.weights_sha256 is None:
        print(
            f"warning: {folder}/{RUN} is of an older version and holds no SHA-256 of "
            f"{path.name}, so damage to that would go unnoticed",
            file=sys.stderr,
        )
    return state


def _load_base(record: RunRecord, device: str) -> GPTModel:
    """The base that a record names, quantised if it was in training.

    Raises InputError when it is not what it was in training.
    """
    base = record.base
    if load_config(base.model) != record.config:
        raise InputError(f"the base {base.model} has another shape than it had in training")
    body, mark = load_known_base(base.model, base.weights, base.seed, device, record.quantize)
    if mark != base.fingerprint:
        raise InputError(
            f"the base {base.model} ({base.weights}) has other weights than the one this "
            "folder was trained on; fine-tune again on this base, or find the old one"
        )
    if record.quantize:
        quantize_linears(body, record.quantize)
    return body


def _check_tensors(parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Raise InputError unless a file holds tensors of just these names and shapes."""
    with open_tensors(path) as reader:
        names = set(reader.keys())
        for name in sorted(names ^ set(parameters)):
            state = "is missing from" if name in parameters else "is not expected in"
            raise InputError(f"tensor {name} {state} {path}; {MEND}")
        for name, parameter in parameters.items():
            stored = reader.get_slice(name)
            if stored.get_shape() != list(parameter.shape):
                raise InputError(
                    f"{path}: {name} has shape {stored.get_shape()}, not {list(parameter.shape)}; "
                    f"does run.json tell the right rank?"
                )
            if stored.get_dtype() not in FLOATS:
                raise InputError(f"{path}: {name} is {stored.get_dtype()}, not floating point")
