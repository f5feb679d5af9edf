"""An adapter's layers alone, to stand beside a base that is in memory already.

To find out what a folder has to hold, a model of its shape is made, without numbers (`outline`).
That takes longer than all the rest, so it is made once for all adapters of a shape; each then gets
copies of the outline's LoRA layers and head, and its file's numbers.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from llm.formats.finetuned import check_file, outline, stored_state, trained_tensors
from llm.formats.record import RunRecord
from llm.lora.inject import lora_layers
from llm.lora.layer import LinearWithLoRA


class AdapterReader:
    """Reads folders of adapters for one base.

    Args:
        linears: the base's layers by their full names in a GPTClassifier. The adapters' layers
            stand beside these themselves, not copies.
        device: where A, B and heads go.
    """

    def __init__(self, linears: Mapping[str, nn.Module], device: torch.device):
        self._linears, self._device = linears, device
        self._outlines: dict[str, _Outline] = {}

    def read(
        self, folder: str | Path, record: RunRecord
    ) -> tuple[dict[str, LinearWithLoRA], nn.Module]:
        """The LoRA layers by the full name of the layer whose place they take, and the head.

        The head is an Identity if the adapter writes.

        Raises InputError when the file of tensors is damaged, does not fit the record, or holds
        values that are not finite.
        """
        lora = record.lora and record.lora.to_dict()
        shape = json.dumps([lora, record.pool, record.writes], sort_keys=True, default=list)
        if shape not in self._outlines:
            self._outlines[shape] = _Outline(folder, record)
        known = self._outlines[shape]
        check_file(folder, record, known.wanted)
        frozen = {id(layer.linear): self._linears[name] for name, layer in known.layers.items()}
        layers = {name: _twin(layer, frozen) for name, layer in known.layers.items()}
        head = _twin(known.head, {})
        for name, numbers in trained_tensors(folder, record, self._device).items():
            place, _, rest = name.partition(".lora.")
            in_head = name.startswith("head.")
            module = head if in_head else layers[known.body + place]
            path = name.removeprefix("head.") if in_head else f"lora.{rest}"
            owner, _, child = path.rpartition(".")
            if child == "A":  # in memory (rank, in), as batches of several adapters want it
                numbers = numbers.T.contiguous().T
            setattr(module.get_submodule(owner), child, nn.Parameter(numbers, requires_grad=False))
        return layers, head


def _twin(module: nn.Module, shared: dict[int, nn.Module]) -> nn.Module:
    """A module with the same tensors and settings, quicker made than by `copy.deepcopy`.

    Args:
        shared: by `id`, what stands in the place of modules that get no twin.
    """
    if id(module) in shared:
        return shared[id(module)]
    twin = module.__class__.__new__(module.__class__)
    for name, value in vars(module).items():  # its tables of tensors, modules and hooks: its own
        twin.__dict__[name] = value.copy() if isinstance(value, dict) else value
    for name, child in module._modules.items():
        twin._modules[name] = child and _twin(child, shared)
    return twin


class _Outline:
    """Names, shapes and modules that all adapters of one shape have."""

    def __init__(self, folder: str | Path, record: RunRecord):
        model = outline(folder, record)
        self.wanted = stored_state(model)
        model.requires_grad_(False).eval()
        self.body = "body." if record.writes else ""  # a model that writes is a body alone
        self.layers = {self.body + name: layer for name, layer in lora_layers(model).items()}
        self.layers.pop("head", None)
        self.head = nn.Identity() if record.writes else model.head
