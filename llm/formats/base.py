"""A base with its weights: the bundled `mini`, GPT-2's own, or a folder in either format.

The weights are never held twice. The model is built on the meta device (shapes without numbers),
its memory is reserved, and each tensor is copied into place straight from the memory-mapped file.
"""

import hashlib
import itertools
from pathlib import Path

import psutil
import torch

from llm.data.hub import cached_folder
from llm.formats.transformers import config_from_transformers, is_mask, is_transposed, name_table
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError
from llm.utils.files import open_tensors, read_json
from llm.utils.paths import MINI_FOLDER

WEIGHTS, INDEX, CONFIG, MANIFEST = (
    "model.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "manifest.json",
)
# Pages of a mapped file count as used memory until it is closed, so it is closed every so often.
_MAPPED_BYTES = 2**26
_FLOATS = ("F64", "F32", "F16", "BF16")


def load_config(model: str | Path) -> GPTConfig:
    """The shape of a preset or of a model's folder. Raises InputError where there is neither."""
    if str(model) in PRESETS:
        return PRESETS[str(model)]
    return _read_config(Path(model))[0]


def load_base(
    model: str | Path, weights: str = "pretrained", seed: int = 0, device: str = "cpu"
) -> GPTModel:
    """A language model to start from.

    Args:
        model: `mini`, `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`, or a folder with
            `config.json` and `model.safetensors` (or its shards), ours or that of transformers.
        weights: `pretrained`, or `random` for GPT-2's random start.
        seed: of random weights; the state of PyTorch's own generator is left as it was.
        device: where the weights go.

    Raises:
        InputError: no such model, a damaged file, or tensors that are missing, unknown, of
            another shape, or not finite numbers.
    """
    if weights not in ("pretrained", "random"):
        raise InputError(f"weights must be pretrained or random, not {weights!r}")
    if weights == "random":
        config = load_config(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _check_memory(config)
            return GPTModel(config).to(device)
    if str(model) == "mini":
        _verify(MINI_FOLDER)
        return load_folder(MINI_FOLDER, device)
    if str(model) in PRESETS:
        return load_folder(cached_folder(str(model)), device)
    return load_folder(model, device)


def load_folder(
    folder: str | Path, device: str = "cpu", extra: dict[str, torch.Tensor] | None = None
) -> GPTModel:
    """The model in a folder, in our format or in that of transformers, as float32.

    Args:
        extra: tensors to fill beside the model's, by their stored names, for example the
            `score.weight` of a classifier.

    Raises InputError as `load_base` does.
    """
    folder = Path(folder)
    config, ours = _read_config(folder)
    with torch.device("meta"):
        model = GPTModel(config)

    def plan() -> dict[str, list[torch.Tensor]]:
        tensors = dict(model.named_parameters())
        table = {name: [name] for name in tensors} if ours else name_table(config)
        planned = {name: [tensors[part] for part in parts] for name, parts in table.items()}
        return planned | {name: [tensor] for name, tensor in (extra or {}).items()}

    stored = _stored(folder)
    by_plain_name = _check(plan(), stored, folder)  # before memory is taken for what does not fit
    model.to_empty(device=device)
    _fill(plan(), by_plain_name, stored)
    return model


def load_classifier(folder: str | Path) -> tuple[GPTClassifier, list[str]]:
    """A GPT2ForSequenceClassification of transformers, and the names of its classes.

    Its head has no bias, so that of ours is zero. Raises InputError as `load_base` does.
    """
    named = read_json(Path(folder) / CONFIG).get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    try:
        labels = [str(named[key]) for key in sorted(named, key=int)]
    except (TypeError, ValueError):
        raise InputError(f"{folder}/{CONFIG}: id2label does not number the classes") from None
    config = load_config(folder)
    score = torch.empty(len(labels), config.emb_dim)
    body = load_folder(folder, extra={"score.weight": score})
    model = GPTClassifier(config, len(labels), body)
    with torch.no_grad():
        model.head.weight.copy_(score)
        model.head.bias.zero_()
    return model, labels


def _check_memory(config: GPTConfig) -> None:
    """Raise InputError when this machine cannot hold a model of that shape."""
    with torch.device("meta"):
        needed = 4 * sum(p.numel() for p in GPTModel(config).parameters())
    if needed > psutil.virtual_memory().total:
        raise InputError(
            f"a model of this shape takes {needed / 1e9:,.1f} GB, more than this machine has; "
            "choose a smaller one"
        )


def _read_config(folder: Path) -> tuple[GPTConfig, bool]:
    """The shape in a folder's config.json, and whether the folder is in our format."""
    if not folder.is_dir():
        raise InputError(f"{folder} is neither a folder nor one of {', '.join(PRESETS)}")
    path = folder / CONFIG
    if not path.exists():
        if (folder / "run.json").exists():
            raise InputError(f"{folder} is a fine-tuned folder, not a base", settings=("folder",))
        raise InputError(f"{folder} holds no {CONFIG}, so it is not a model's folder")
    content = read_json(path)
    if "emb_dim" in content:
        return GPTConfig.from_dict(content, str(path)), True
    return config_from_transformers(content, str(path)), False


def _verify(folder: Path) -> None:
    """Check the bundled files against the manifest that was written with them."""
    if not all((folder / name).exists() for name in (CONFIG, WEIGHTS, MANIFEST)):
        raise InputError(
            "the pretrained mini model is not in data/mini; fetch the repository anew, or start "
            "from random weights",
            settings=("weights=random",),
        )
    manifest = read_json(folder / MANIFEST)
    for name in (CONFIG, WEIGHTS):
        with open(folder / name, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest.get(name):
                raise InputError(
                    f"{folder / name} is damaged (its SHA-256 differs); fetch the repository anew"
                )


def _stored(folder: Path) -> dict[str, Path]:
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


def _check(plan: dict[str, list[torch.Tensor]], stored: dict[str, Path], folder: Path) -> dict:
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
                if part.get_dtype() not in _FLOATS:
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


def _fill(plan: dict[str, list[torch.Tensor]], by_plain_name: dict, stored: dict) -> None:
    """Copy stored tensors into place: `plan` says which tensors each is cut into."""
    # The largest first: while it is copied there is the least else in memory.
    order = sorted(plan, key=lambda plain: -sum(part.numel() for part in plan[plain]))
    for path, names in _by_file(order, by_plain_name, stored):
        _copy(path, {by_plain_name[plain]: plan[plain] for plain in names})


@torch.no_grad()
def _copy(path: Path, plan: dict[str, list[torch.Tensor]]) -> None:
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
