"""The commands that fetch a model or write it anew: `merge`, `export`, `import`, `download`."""

import json
from pathlib import Path

from llm.cli.terminal import remark
from llm.utils.errors import InputError


def merge(options) -> None:
    """Fold an adapter into its base."""
    from llm.formats.finetuned import load_finetuned, save_finetuned
    from llm.lora.inject import lora_layers, merge_and_unload, update_length
    from llm.lora.quantized_linear import round_linears

    if Path(options.out).resolve() == Path(options.folder).resolve():
        raise InputError(
            f"{options.folder} is what is to be merged, and is kept; choose another folder",
            settings=("out",),
        )
    model, _, record = load_finetuned(options.folder)
    if not lora_layers(model):
        raise InputError(f"{options.folder} has no LoRA layers ({record.method}); nothing to do")
    if options.requantize and not record.quantize:
        raise InputError(
            f"{options.folder} was trained on a base in full precision; there is nothing to "
            "requantise to",
            settings=("requantize",),
        )
    moved = {"update": update_length(model)} if options.requantize else {}
    merge_and_unload(model)
    if options.requantize:
        moved["rounding"] = round_linears(model, record.quantize)
    model.requires_grad_(True)  # all of it is stored
    save_finetuned(options.out, model, record.merged(options.folder))
    parameters = sum(p.numel() for p in model.parameters())
    answer = {"out": options.out, "parameters": parameters, **moved}
    print(json.dumps(answer) if options.json else f"written: {options.out}, a plain model")
    if moved:
        remark(
            options,
            f"the adapter moves W by {moved['update']:.3g}, rounding to {record.quantize} by "
            f"{moved['rounding']:.3g} (lengths of all changes together)",
        )
    elif record.quantize:
        remark(options, f"its W is the numbers that {record.quantize} stood for, and the update")


def export(options) -> None:
    """Write for peft or transformers."""
    from llm.formats.export import export_folder

    written = export_folder(options.format, options.out, options.folder, options.model)
    print(json.dumps(written) if options.json else f"written: {options.out}")
    kind = written["quantize"]
    if kind and options.format == "peft":
        remark(
            options,
            f"the adapter was trained on the base in {kind}: on the base as it is, it answers a "
            "little differently",
        )
    elif kind:
        remark(options, f"its W is the numbers that {kind} stood for, and the update")


def import_adapter(options) -> None:
    """An adapter of peft's as a folder of ours."""
    from llm.formats.imported import import_folder

    labels = [label.strip() for label in options.labels.split(",")]
    base = (options.model, options.weights, options.seed)
    record = import_folder(options.folder, options.out, *base, labels)
    answer = {"out": options.out, "task": record.task, "rank": record.lora.rank}
    print(json.dumps(answer) if options.json else f"written: {options.out}, task {record.task}")


def download(options) -> None:
    """Fetch GPT-2's weights from the hub, or the whole message collection."""
    if options.what == "sms":
        from llm.data.download import download_sms

        where = download_sms(quiet=options.quiet)
    else:
        from llm.data.hub import download

        where = download(options.what)
    print(json.dumps({"path": str(where)}) if options.json else f"ready: {where}")
