"""A base whose weights go into few bits while it is read, so that it is never whole in float32.

QLoRA needs a model in four bits. Read in float32 first, it would take eight times that for a
moment, and a model that fits no more in the one does not fit in the other. Here tensor after tensor
is read and put into codes, and beside the model as it will be there is one tensor of the file at a
time. GPT-2 124M takes 193 MiB in four bits, of which the token embedding, which stays as it is, is
147; the process grows by 299 MiB while it is read, and by 571 where it is read whole (the peak is
the embedding beside the pages of the file that it is copied from).

The base's fingerprint, by which an adapter knows it, is of all weights in float32. So it is taken
on the way, which decides the order: that in which `llm.model.parameters.fingerprint` goes.

Quantised on the CPU whatever the device: a mean over many scales depends, in its last bit, on the
order in which they are added, and the same adapter is to find the same codes everywhere.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from llm.formats import stored
from llm.formats.base import find_base, load_base, read_config, stored_names
from llm.lora.quantized_linear import QuantizedLinear
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint, fingerprint_of


def load_known_base(
    model: str | Path,
    weights: str = "pretrained",
    seed: int = 0,
    device: str = "cpu",
    quantize: str | None = None,
) -> tuple[GPTModel, str]:
    """A base and its fingerprint.

    Args:
        model, weights, seed, device: see `llm.formats.base.load_base`.
        quantize: "nf4" or "int8": what `load_base` and `quantize_linears` would give, to the bit,
            in a fraction of the memory. Random weights are drawn whole, and left to the caller.

    Raises:
        InputError: as `load_base` does.
    """
    if quantize is None or weights != "pretrained":
        body = load_base(model, weights, seed, device)
        return body, fingerprint(body)
    folder = find_base(model).folder()
    config, ours = read_config(folder)
    with torch.device("meta"):
        body = GPTModel(config)
    mark = fingerprint_of(_in_place(body, _read(body, folder, ours), quantize))
    return body.to(device), mark


Named = Iterator[tuple[str, torch.Tensor]]


def _read(body: GPTModel, folder: Path, ours: bool) -> Named:
    """The weights of an outline by name, in the order of their names, float32, checked."""
    outline = dict(body.named_parameters())
    table = stored_names(body.config, ours)
    plan = {name: [outline[part] for part in parts] for name, parts in table.items()}
    files = stored.find_tensors(folder)
    names = stored.check(plan, files, folder)
    kept_in = {part: name for name, parts in table.items() for part in parts}
    waiting: dict[str, torch.Tensor] = {}  # GPT-2 stores query, key and value as one tensor
    for part in sorted(outline):
        if part not in waiting:
            name = kept_in[part]
            places = [torch.empty(outline[part].shape) for part in table[name]]
            stored.fill({name: places}, names, files)
            waiting.update(zip(table[name], places))
            del places
        yield part, waiting.pop(part)


def _in_place(body: GPTModel, weights: Named, kind: str) -> Named:
    """Hand weights on, and put each into the model, W of a Linear in codes."""
    for name, tensor in weights:
        yield name, tensor
        owner, _, attribute = name.rpartition(".")
        module = body.get_submodule(owner)
        setattr(module, attribute, nn.Parameter(tensor))
        if isinstance(module, nn.Linear) and attribute == "weight":  # its bias came before
            parent, _, child = owner.rpartition(".")
            setattr(body.get_submodule(parent), child, QuantizedLinear(module, kind))
            module.weight = None
        del tensor, module
