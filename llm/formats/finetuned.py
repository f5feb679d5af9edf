"""A fine-tuned model as a folder: what was trained, and how to put it back on its base.

    run.json               base, method, task, labels, settings, measures
    adapter.safetensors    for `lora`: A, B and the head, kilobytes
    model.safetensors      for the others: the tensors that were trained (`full`: all of them)

The base itself is not stored for `lora`, `head` and `last_block`. It is named, and recognised by a
fingerprint of its weights: an adapter on another base would answer nonsense without a word.
"""

from pathlib import Path

import torch

from llm.data.tokenizer import load_tokenizer
from llm.formats.base import load_base, load_config
from llm.lora.layer import check_settings
from llm.lora.methods import LoRASettings, apply_method, check_method
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.parameters import fingerprint, trainable_state
from llm.utils.errors import InputError
from llm.utils.files import make_folder, open_tensors, read_json, remove, write_json, write_tensors

RUN = "run.json"
WEIGHTS = {"lora": "adapter.safetensors"}
FORMAT = 1
FLOATS = ("F64", "F32", "F16", "BF16")


def weights_file(method: str) -> str:
    """The name of the file that holds the trained tensors."""
    return WEIGHTS.get(method, "model.safetensors")


def stored_state(model: GPTClassifier) -> dict[str, torch.Tensor]:
    """What a folder holds, by name: all that was trained, and the head in any case.

    With LoRA on the head (`--targets all`) its own weights are random numbers that were never
    trained: no base has them, and A and B mean nothing without them.
    """
    head = {name: p.detach() for name, p in model.named_parameters() if name.startswith("head.")}
    return trainable_state(model) | head


def save_finetuned(folder: str | Path, model: GPTClassifier, about: dict) -> None:
    """Write what was trained, then `run.json`, which makes the folder complete.

    An old `run.json` goes first: it would describe other tensors if this were cut short.

    Args:
        model: with `requires_grad` still set on what was trained.
        about: base, method, task, labels, lora, ... as `llm.training.finetuning` makes it. The size
            of the tensors' file is filled in as `saved_bytes` of its `record`, if it has one.
    """
    folder = make_folder(folder)
    path = folder / weights_file(about["method"])
    remove(folder / RUN)
    write_tensors(path, stored_state(model), {"fingerprint": about["base"]["fingerprint"]})
    if "record" in about:
        about["record"]["saved_bytes"] = path.stat().st_size
    write_json(folder / RUN, {"format": FORMAT, "config": model.config.to_dict(), **about})


def read_about(folder: str | Path) -> dict:
    """The `run.json` of a folder, checked. Raises InputError when it is not a fine-tuned folder."""
    path = Path(folder) / RUN
    if not path.exists():
        raise InputError(f"{folder} is no fine-tuned folder (it has no {RUN}); make one: finetune")
    about = read_json(path)
    if about.get("format") != FORMAT:
        raise InputError(f"{path}: format {about.get('format')!r} is unknown; expected {FORMAT}")
    wanted = {"config": dict, "method": str, "task": str, "labels": list, "base": dict}
    for name, kind in wanted.items():
        if not isinstance(about.get(name), kind):
            raise InputError(f"{path}: {name} is missing or damaged; write the folder anew")
    check_method(about["method"])
    base = about["base"]
    names = all(isinstance(base.get(key), str) for key in ("model", "weights", "fingerprint"))
    seed = base.get("seed", 0)
    if not names or isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise InputError(f"{path}: base is damaged; write the folder anew")
    if len(about["labels"]) != 2 or not all(isinstance(x, str) for x in about["labels"]):
        raise InputError(f"{path}: labels must be two names, not {about['labels']!r}")
    return about


def lora_settings(about: dict, where: str | Path) -> LoRASettings | None:
    """The LoRA settings of a folder's `run.json`; None for the other methods."""
    if about["method"] != "lora":
        return None
    try:
        settings = LoRASettings(**about["lora"])
        check_settings(settings.rank, settings.alpha, settings.dropout)
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"{where}/{RUN}: lora is damaged ({error}); write it anew") from None
    targets = settings.targets
    if targets != "all" and not (
        isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    ):
        raise InputError(f"{where}/{RUN}: lora is damaged (targets are no names); write it anew")
    return settings


def load_finetuned(folder: str | Path, device: str = "cpu"):
    """Put a fine-tuned folder's tensors on their base.

    Returns:
        (the GPTClassifier, its tokenizer, the content of run.json)

    Raises:
        InputError: no such folder, another base than it was trained on, a tensor missing, of
            another shape or not finite.
    """
    about = read_about(folder)
    config = GPTConfig.from_dict(about["config"], f"{folder}/{RUN}: config")
    base, path = about["base"], Path(folder) / weights_file(about["method"])
    settings = lora_settings(about, folder)
    check_fits(config, about["method"], settings, path)
    tokenizer = load_tokenizer(base["model"], config.vocab_size)
    model = classifier_on_base(base, config, load=about["method"] != "full")
    apply_method(model, about["method"], settings)
    load_trained(model, path)
    model.requires_grad_(False)
    return model.to(device).eval(), tokenizer, about


def classifier_on_base(base: dict, config: GPTConfig, load: bool = True) -> GPTClassifier:
    """A classifier whose body is the base that a `run.json` names, checked by its fingerprint.

    Without `load`, the body's weights are placeholders: for folders that hold them all.
    """
    if not load:
        with torch.device("meta"):
            model = GPTClassifier(config)
        return model.to_empty(device="cpu")
    if load_config(base["model"]) != config:
        raise InputError(f"the base {base['model']} has another shape than it had in training")
    body = load_base(base["model"], base["weights"], base.get("seed", 0))
    if fingerprint(body) != base["fingerprint"]:
        raise InputError(
            f"the base {base['model']} ({base['weights']}) has other weights than the one this "
            "folder was trained on; fine-tune again on this base, or find the old one"
        )
    return GPTClassifier(config, body=body)


def check_fits(config: GPTConfig, method: str, settings: LoRASettings | None, path: Path) -> None:
    """Raise InputError when a file is not what a `run.json` tells, before memory is taken for it.

    The model is built on the meta device, where tensors have shapes and no numbers.
    """
    try:
        with torch.device("meta"):
            model = GPTClassifier(config)
            apply_method(model, method, settings)
    except (RuntimeError, OverflowError, TypeError):  # sizes beyond what can be counted
        raise InputError(
            f"{path.parent}/{RUN} tells of a model too large for any machine"
        ) from None
    _check_tensors(stored_state(model), path)


def load_trained(model: GPTClassifier, path: Path) -> None:
    """Copy a file's tensors into the model's; all must be there and fit."""
    parameters = stored_state(model)
    _check_tensors(parameters, path)
    with open_tensors(path) as reader:
        for name, parameter in parameters.items():
            parameter.copy_(reader.get_tensor(name))
            if not torch.isfinite(parameter).all():
                raise InputError(f"{path}: {name} holds values that are not finite numbers")


def _check_tensors(parameters: dict[str, torch.Tensor], path: Path) -> None:
    """Raise InputError unless a file holds tensors of just these names and shapes."""
    with open_tensors(path) as reader:
        names = set(reader.keys())
        for name in sorted(names ^ set(parameters)):
            state = "is missing from" if name in parameters else "is not expected in"
            raise InputError(f"tensor {name} {state} {path}; write the folder anew")
        for name, parameter in parameters.items():
            stored = reader.get_slice(name)
            if stored.get_shape() != list(parameter.shape):
                raise InputError(
                    f"{path}: {name} has shape {stored.get_shape()}, not {list(parameter.shape)}; "
                    f"does run.json tell the right rank?"
                )
            if stored.get_dtype() not in FLOATS:
                raise InputError(f"{path}: {name} is {stored.get_dtype()}, not floating point")
