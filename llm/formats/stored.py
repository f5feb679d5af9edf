"""The tensors in a folder's safetensors files: found, checked, copied into place.

They are never held twice: the places are there already, and each tensor is copied straight from
the memory-mapped file.
"""

import itertools
from pathlib import Path

import torch

from llm.formats.transformers import is_mask, is_transposed
from llm.utils.errors import InputError
from llm.utils.files import open_tensors, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # the types of numbers that can be read
# What is to be filled: the name of a tensor as it is stored -> the tensors that it is cut into.
Plan = dict[str, list[torch.Tensor]]
# Pages of a mapped file count as used memory until it is closed, so it is closed every so often.
_MAPPED_BYTES = 2**26


def find_tensors(folder: Path) -> dict[str, Path]:
    """Every tensor that a folder holds -> the file it is in."""
    if (folder / WEIGHTS).exists():
        files = [folder / WEIGHTS]
    elif (folder / INDEX).exists():
        weight_map = read_json(folder / INDEX).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else [None]
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise InputError(f"{folder / INDEX}: weight_map does not name files of this folder")
        files = [folder / name for name in sorted(set(names))]
    else:
        hint = " (pytorch_model.bin can run code when read: save the model anew as safetensors)"
        hint = hint if (folder / "pytorch_model.bin").exists() else ""
        raise InputError(f"{folder} holds no {WEIGHTS}{hint}")
    stored: dict[str, Path] = {}
    for path in files:
        with open_tensors(path) as reader:
            for name in reader.keys():
                if name in stored:
                    raise InputError(f"{folder}: tensor {name} is in {path.name} and elsewhere too")
                stored[name] = path
    return stored


def check(plan: Plan, stored: dict[str, Path], folder: Path) -> dict[str, str]:
    """Raise InputError unless all names, shapes and types are those that `plan` expects.

    Returns the stored name of each name in `plan`.
    """
    by_plain_name = {name.removeprefix("transformer."): name for name in stored}
    if len(by_plain_name) != len(stored):
        raise InputError(f"{folder}: tensors with and without the prefix transformer. are mixed")
    tied = by_plain_name.pop("lm_head.weight", None) if "wte.weight" in plan else None
    found = {plain for plain in by_plain_name if not is_mask(plain)}
    _refuse(folder, "missing", [name for name in plan if name not in found])
    _refuse(folder, "not a part of this model", [name for name in found if name not in plan])

    shapes = {}
    for path, names in _by_file(list(plan), by_plain_name, stored):
        with open_tensors(path) as reader:
            for plain in names:
                part = reader.get_slice(by_plain_name[plain])
                shapes[plain] = part.get_shape()
                if part.get_dtype() not in FLOATS:
                    raise InputError(f"{path}: {plain} is {part.get_dtype()}, not floating point")
    expected = {plain: _stored_shape(plain, parts) for plain, parts in plan.items()}
    _refuse(
        folder,
        "of another shape than config.json says",
        [
            f"{plain} {shapes[plain]} (not {shape})"
            for plain, shape in expected.items()
            if shapes[plain] != shape
        ],
    )
    if tied is not None:
        _check_tied(stored, tied, by_plain_name["wte.weight"], folder)
    return by_plain_name


def fill(plan: Plan, by_plain_name: dict, stored: dict) -> None:
    """Copy stored tensors into place: `plan` says which tensors each is cut into."""
    # The largest first: while it is copied there is the least else in memory.
    order = sorted(plan, key=lambda plain: -sum(part.numel() for part in plan[plain]))
    for path, names in _by_file(order, by_plain_name, stored):
        _copy(path, {by_plain_name[plain]: plan[plain] for plain in names})


@torch.no_grad()
def _copy(path: Path, plan: Plan) -> None:
    """Copy some tensors of one file into their places."""
    waiting = list(plan)
    while waiting:
        with open_tensors(path) as reader:
            mapped = 0
            while waiting and mapped < _MAPPED_BYTES:
                name = waiting.pop(0)
                tensor = reader.get_tensor(name)
                mapped += tensor.nbytes
                tensor = tensor.T if is_transposed(name) else tensor
                sizes = [len(part) for part in plan[name]]
                for target, part in zip(plan[name], tensor.split(sizes), strict=True):
                    target.copy_(part)
                    # Smallest and largest are finite, so all are; NaN would be both.
                    if not all(torch.isfinite(value) for value in torch.aminmax(target)):
                        raise InputError(f"{path}: {name} holds values that are not finite")
                del tensor, part


def _check_tied(stored: dict[str, Path], head: str, embedding: str, folder: Path) -> None:
    """GPT-2's output layer is its token embedding; a file may hold it twice, but not differ."""
    with open_tensors(stored[head]) as one, open_tensors(stored[embedding]) as other:
        left, right = one.get_slice(head), other.get_slice(embedding)
        rows = right.get_shape()[0]
        step = max(1, _MAPPED_BYTES // 4 // right.get_shape()[1])
        same = left.get_shape() == right.get_shape() and all(
            torch.equal(left[start : start + step], right[start : start + step])
            for start in range(0, rows, step)
        )
    if not same:
        raise InputError(
            f"{folder}: lm_head.weight differs from wte.weight; GPT-2 shares the two (tied)"
        )


def _by_file(plain_names: list[str], by_plain_name: dict, stored: dict[str, Path]):
    """(file, names) for runs of names that lie in the same file, in the order given."""
    return [
        (path, list(names))
        for path, names in itertools.groupby(plain_names, lambda name: stored[by_plain_name[name]])
    ]


def _stored_shape(name: str, parts: list[torch.Tensor]) -> list[int]:
    shape = [sum(len(part) for part in parts), *parts[0].shape[1:]]
    return shape[::-1] if is_transposed(name) else shape


def _refuse(folder: Path, what: str, names: list[str]) -> None:
    """One line that names the tensors, the first few of many."""
    if names:
        shown = ", ".join(sorted(names)[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise InputError(f"{folder}: tensors {what}: {shown}{more}")
