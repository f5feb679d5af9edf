"""The doors to the ecosystem: a fine-tuned folder, or a base, for `transformers` or `peft`."""

from pathlib import Path

from llm.data.hub import REPOSITORIES
from llm.formats.base import load_base, load_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.formats.peft_export import export_peft
from llm.formats.transformers import export_transformers
from llm.utils.errors import InputError


def export_folder(
    format: str, out: str | Path, folder: str | Path | None = None, model: str | None = None
) -> dict:
    """Write a model into `out`, in the format of `transformers` or of `peft`.

    For `peft` the base is needed beside the adapter. GPT-2 is named by its place on the hub; a
    base that `transformers` cannot find by a name is written into `out/base`.

    Args:
        folder: of a fine-tuned model; or
        model: a base (`transformers` only).

    Returns:
        `{"format": ..., "out": ..., "base": ..., "quantize": ...}`; base is None for
        `transformers`; quantize is what the base was kept in while the adapter was trained, or
        None. For `peft` that base is written, or named, as it was before.

    Raises:
        InputError: anything about the folders, or a model without an adapter for `peft`.
    """
    if format not in ("transformers", "peft"):
        raise InputError(f"unknown format {format!r}; choose transformers or peft")
    source = Path(folder or model)
    if source.is_dir() and source.resolve() == Path(out).resolve():
        raise InputError(
            f"{out} is what is to be exported; choose another folder", settings=("out",)
        )
    written = {"format": format, "out": str(out), "base": None, "quantize": None}
    if folder is None:
        if format == "peft":
            raise InputError(
                "a base has no adapter to write for peft; give a fine-tuned folder",
                settings=("folder",),
            )
        export_transformers(load_base(model), load_tokenizer(model), out)
        return written
    adapted, tokenizer, record = load_finetuned(folder)
    written["quantize"] = record.quantize
    if not record.writes and record.pool != "last":
        raise InputError(
            f"{folder} reads the mean of a message's tokens, and the GPT-2 classifier of "
            "transformers the last token; fine-tune one that reads the last token",
            command="finetune --pool last",
        )
    if format == "transformers":
        export_transformers(adapted, tokenizer, out, record.labels)
        return written
    if record.method != "lora":
        raise InputError(
            f"{folder} was trained with {record.method}, not lora; export it for transformers",
            settings=("format=transformers",),
        )
    base = record.base
    if base.weights == "pretrained" and base.model in REPOSITORIES:
        name = REPOSITORIES[base.model]
    else:
        name = (Path(out) / "base").as_posix()
        body = load_base(base.model, base.weights, base.seed)
        export_transformers(body, tokenizer, name, record.labels)
    export_peft(adapted, out, name, tokenizer)
    return {**written, "base": name}
