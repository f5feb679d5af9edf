"""A fine-tuned model as a folder: what was trained, and how to put it back on its base.

    run.json               base, method, task, labels, settings, measures
    adapter.safetensors    for `lora`: A, B and the head, kilobytes
    model.safetensors      for the others: the tensors that were trained (`full`: all of them)

The base itself is not stored for `lora`, `head` and `last_block`. It is named, and recognised by a
fingerprint of its weights: an adapter on another base would answer nonsense without a word.
"""

from pathlib import Path

import torch

from llm.checkpoint import trainable_state
from llm.classifier import GPTClassifier
from llm.config import GPTConfig
from llm.errors import InputError
from llm.files import make_folder, open_tensors, read_json, write_json, write_tensors
from llm.methods import LoRASettings, apply_method
from llm.pretrained import fingerprint, load_base
from llm.tokenizer import load_tokenizer

RUN = "run.json"
WEIGHTS = {"lora": "adapter.safetensors"}
FORMAT = 1


def weights_file(method: str) -> str:
    """The name of the file that holds the trained tensors."""
    return WEIGHTS.get(method, "model.safetensors")


def save_finetuned(folder: str | Path, model: GPTClassifier, about: dict) -> None:
    """Write what was trained, then `run.json`, which makes the folder complete.

    Args:
        model: with `requires_grad` still set on what was trained.
        about: base, method, task, labels, lora, ... as `llm.finetuning` makes it. The size of
            the tensors' file is filled in as `saved_bytes` of its `record`, if it has one.
    """
    folder = make_folder(folder)
    path = folder / weights_file(about["method"])
    write_tensors(path, trainable_state(model), {"fingerprint": about["base"]["fingerprint"]})
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
    if not all(isinstance(about["base"].get(key), str) for key in ("model", "weights")):
        raise InputError(f"{path}: base is damaged; write the folder anew")
    if len(about["labels"]) != 2 or not all(isinstance(x, str) for x in about["labels"]):
        raise InputError(f"{path}: labels must be two names, not {about['labels']!r}")
    return about


def lora_settings(about: dict, where: str | Path) -> LoRASettings | None:
    """The LoRA settings of a folder's `run.json`; None for the other methods."""
    if about["method"] != "lora":
        return None
    try:
        return LoRASettings(**about["lora"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{where}/{RUN}: lora is damaged ({error}); write it anew") from None


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
    base = about["base"]
    model = classifier_on_base(base, config, load=about["method"] != "full")
    apply_method(model, about["method"], lora_settings(about, folder))
    load_trained(model, Path(folder) / weights_file(about["method"]))
    model.requires_grad_(False)
    return model.to(device).eval(), load_tokenizer(base["model"]), about


def classifier_on_base(base: dict, config: GPTConfig, load: bool = True) -> GPTClassifier:
    """A classifier whose body is the base that a `run.json` names, checked by its fingerprint.

    Without `load`, the body's weights are placeholders: for folders that hold them all.
    """
    if not load:
        with torch.device("meta"):
            model = GPTClassifier(config)
        return model.to_empty(device="cpu")
    body = load_base(base["model"], base["weights"], base.get("seed", 0))
    if body.config != config:
        raise InputError(f"the base {base['model']} has another shape than it had in training")
    if fingerprint(body) != base.get("fingerprint"):
        raise InputError(
            f"the base {base['model']} ({base['weights']}) has other weights than the one this "
            "folder was trained on; fine-tune again on this base, or find the old one"
        )
    return GPTClassifier(config, body=body)


def load_trained(model: GPTClassifier, path: Path) -> None:
    """Copy a file's tensors into the trainable parameters; all must be there and fit."""
    parameters = trainable_state(model)
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
        for name, parameter in parameters.items():
            tensor = reader.get_tensor(name)
            if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise InputError(f"{path}: {name} holds values that are not finite numbers")
            parameter.copy_(tensor)
