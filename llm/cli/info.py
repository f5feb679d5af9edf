"""`python -m llm info`: what a method or a fine-tuned folder costs, counted on the meta device.

A tensor there has a shape and no numbers, so that the largest base is counted in a second.
"""

import json
from pathlib import Path

from llm.cli.options import settings_of
from llm.lora.settings import LoRASettings, resolve
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError


def info(options) -> None:
    """Print parameters and bytes: of a method on a base, or of a folder."""
    from llm.model.parameters import share

    answer = _of_folder(options) if options.folder else _of_method(options)
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    if options.folder:
        about = [f"task {answer['task']}", answer["method"]]
        about += [f"rank {answer['rank']}"] if answer["rank"] else []
        print(f"{options.folder}: {', '.join(about)}, on the base {answer['model']}")
    base, trained = answer["base_parameters"], answer["trainable_parameters"]
    part = trained / (base + answer["added_parameters"])
    with_head = "" if answer.get("task") == "writing" else ", a two-class head included"
    in_codes = f", the blocks' Linears in {answer['quantize']}" if answer["quantize"] else ""
    print(f"base        {base:>15,} parameters{with_head}{in_codes}")
    print(f"added       {answer['added_parameters']:>15,}")
    print(f"trainable   {trained:>15,}  ({share(part)} of all)")
    for kind, count in answer["memory_bytes"].items():
        print(f"{kind:<11} {count / 1e6:>15,.1f} MB")
    if options.folder:
        print(f"stored      {answer['stored_bytes'] / 1e6:>15,.1f} MB  {answer['stored_in']}")


def _of_method(options) -> dict:
    from llm.formats.base import load_config

    config = load_config(options.model)
    method, lora = resolve(options.method, settings_of(LoRASettings, options))
    return {
        "model": options.model,
        "method": options.method,
        "rank": lora.rank if method == "lora" else None,
        "quantize": lora.quantize,
        **_count(config, method, lora),
    }


def _of_folder(options) -> dict:
    from llm.formats.finetuned import outline
    from llm.formats.record import read_record

    training = FinetuneSettings()
    usual = {"model": training.model, "method": training.method, **vars(training.lora)}
    for name, value in usual.items():
        if getattr(options, name) != value:
            raise InputError("a fine-tuned folder names that itself", settings=(name,))
    record = read_record(options.folder)
    outline(options.folder, record)  # refuses a folder that is damaged
    path = Path(options.folder) / record.weights_file
    return {
        "folder": options.folder,
        "task": record.task,
        "labels": record.labels,
        "model": record.base.model,
        "method": record.method,
        "rank": record.lora.rank if record.lora else None,
        "quantize": record.quantize,
        **_count(record.config, record.method, record.lora, record.writes),
        "stored_in": path.name,
        "stored_bytes": path.stat().st_size,
    }


def _count(config, method: str, lora: LoRASettings | None, writes: bool = False) -> dict:
    """Parameters and bytes of a method on a base of a shape."""
    import torch

    from llm.lora.methods import apply_method
    from llm.model.classifier import GPTClassifier
    from llm.model.gpt import GPTModel
    from llm.model.parameters import parameter_counts
    from llm.training.memory import static_memory

    with torch.device("meta"):
        model = GPTModel(config) if writes else GPTClassifier(config)
    base = parameter_counts(model)["total"]
    apply_method(model, method, lora)
    counts = parameter_counts(model)
    return {
        "base_parameters": base,
        "added_parameters": counts["total"] - base,
        "trainable_parameters": counts["trainable"],
        "memory_bytes": static_memory(model),
    }
