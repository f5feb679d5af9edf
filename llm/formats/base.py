"""A base with its weights: the bundled `mini`, GPT-2's own, or a folder in either format.

The weights are never held twice. The model is built on the meta device (shapes without numbers),
its memory is reserved, and each tensor is copied into place straight from the memory-mapped file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from llm.data.hub import cached_folder
from llm.data.tokenizer import Tokenizer, folder_tokenizer, gpt2_tokenizer, mini_tokenizer
from llm.formats import stored
from llm.formats.record import RUN
from llm.formats.stored import WEIGHTS
from llm.formats.transformers import config_from_transformers, name_table
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError
from llm.utils.files import read_json, sha256_of_file
from llm.utils.paths import MINI_FOLDER

CONFIG, MANIFEST = "config.json", "manifest.json"


class Source(NamedTuple):
    """Where the parts of a base come from; none is looked for before it is asked for."""

    config: Callable[[], GPTConfig]
    folder: Callable[[], Path]  # that holds its weights
    tokenizer: Callable[[], Tokenizer]


def find_base(model: str | Path) -> Source:
    """What a model's name stands for: `mini`, a `gpt2` preset, or else a folder.

    Raises InputError where it is none of them.
    """
    name, folder = str(model), Path(model)
    if name == "mini":
        return Source(lambda: PRESETS["mini"], _verified_mini, mini_tokenizer)
    if name in PRESETS:
        return Source(lambda: PRESETS[name], lambda: cached_folder(name), gpt2_tokenizer)
    if not folder.is_dir():
        raise InputError(f"{model} is neither a folder nor one of {', '.join(PRESETS)}")
    return Source(lambda: read_config(folder)[0], lambda: folder, lambda: folder_tokenizer(folder))


def load_config(model: str | Path) -> GPTConfig:
    """The shape of a preset or of a model's folder. Raises InputError where there is neither."""
    return find_base(model).config()


def load_tokenizer(model: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """The tokenizer that belongs to a model: `mini`, a `gpt2` preset, or a model's folder.

    Args:
        vocab_size: of the model.

    Raises:
        InputError: neither, a folder without a vocabulary, or one that is too large for the model.
    """
    tokenizer = find_base(model).tokenizer()
    if vocab_size is not None:
        check_vocabulary(tokenizer, vocab_size, str(model))
    return tokenizer


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, name: str) -> None:
    """Raise InputError when a vocabulary has more tokens than the model, called `name`, knows."""
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            f"the vocabulary of {name} has {tokenizer.vocab_size} tokens, the model only "
            f"{vocab_size}; they do not belong together"
        )


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
    return load_folder(find_base(model).folder(), device)


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
    config, ours = read_config(folder)
    with torch.device("meta"):
        model = GPTModel(config)

    def plan() -> stored.Plan:
        tensors = dict(model.named_parameters())
        table = stored_names(config, ours)
        planned = {name: [tensors[part] for part in parts] for name, parts in table.items()}
        return planned | {name: [tensor] for name, tensor in (extra or {}).items()}

    files = stored.find_tensors(folder)
    names = stored.check(plan(), files, folder)  # before memory is taken for what does not fit
    # `Module.to_empty` would do, but for meta tensors it imports sympy: a third of a start.
    empty = {name: torch.empty(p.shape, device=device) for name, p in model.named_parameters()}
    model.load_state_dict(empty, assign=True)
    stored.fill(plan(), names, files)
    return model


def stored_names(config: GPTConfig, ours: bool) -> dict[str, list[str]]:
    """The name of each tensor in a folder's files, and of the weights that it is cut into."""
    if not ours:
        return name_table(config)
    with torch.device("meta"):
        return {name: [name] for name, _ in GPTModel(config).named_parameters()}


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


def read_config(folder: Path) -> tuple[GPTConfig, bool]:
    """The shape in a folder's config.json, and whether the folder is in our format."""
    path = folder / CONFIG
    if not path.exists():
        if (folder / RUN).exists():
            raise InputError(f"{folder} is a fine-tuned folder, not a base", settings=("folder",))
        raise InputError(f"{folder} holds no {CONFIG}, so it is not a model's folder")
    content = read_json(path)
    if "emb_dim" in content:
        return GPTConfig.from_dict(content, str(path)), True
    return config_from_transformers(content, str(path)), False


def _verified_mini() -> Path:
    """The bundled base's folder, checked against the manifest that was written with it."""
    folder = MINI_FOLDER
    if not all((folder / name).exists() for name in (CONFIG, WEIGHTS, MANIFEST)):
        raise InputError(
            "the pretrained mini model is not in data/mini; fetch the repository anew, or start "
            "from random weights",
            settings=("weights=random",),
        )
    manifest = read_json(folder / MANIFEST)
    for name in (CONFIG, WEIGHTS):
        if sha256_of_file(folder / name) != manifest.get(name):
            raise InputError(
                f"{folder / name} is damaged (its SHA-256 differs); fetch the repository anew"
            )
    return folder
