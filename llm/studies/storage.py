"""What many tasks take on disk: a full model each, or one base and an adapter each."""

from pathlib import Path
from tempfile import TemporaryDirectory

from llm.formats.finetuned import base_state, load_finetuned, save_finetuned
from llm.formats.record import RUN
from llm.lora.inject import merge_and_unload
from llm.utils.files import write_tensors


def storage(folders: dict[str, str | Path]) -> list[dict]:
    """What tasks take on disk: as full models, and as one base with an adapter each. Measured.

    Each adapter is merged into the base and written as the full model that it stands for, into a
    temporary folder; the base is written once. All of it float32.

    Args:
        folders: {name: a folder of LoRA}.

    Returns:
        one entry for the first task, the first two, ...: `tasks` (their names), `full_bytes`,
        `adapter_bytes` (base included), `base_bytes`.
    """
    entries: list[dict] = []
    full = small = base_bytes = 0
    with TemporaryDirectory() as temporary:
        for name, folder in folders.items():
            model, _, record = load_finetuned(folder)
            if not entries:
                write_tensors(Path(temporary) / "base.safetensors", base_state(model.body))
                small = base_bytes = bytes_on_disk(Path(temporary))
            merge_and_unload(model)
            merged = Path(temporary) / "merged"
            save_finetuned(merged, model.requires_grad_(True), record.merged(folder))
            full += bytes_on_disk(merged)
            small += sum(
                (Path(folder) / part).stat().st_size for part in (RUN, record.weights_file)
            )
            names = [*(entries[-1]["tasks"] if entries else []), name]
            entries.append(
                {
                    "tasks": names,
                    "full_bytes": full,
                    "adapter_bytes": small,
                    "base_bytes": base_bytes,
                }
            )
    return entries


def bytes_on_disk(folder: Path) -> int:
    """The sizes of all files in a folder, added up."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
