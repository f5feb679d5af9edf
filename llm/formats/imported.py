"""An adapter that `peft` trained, as a fine-tuned folder of ours: for every command that takes one.

`peft` writes neither the base nor a fingerprint of it into its folder. So the reader says which
base it was trained on, and from here on the folder remembers that base by its fingerprint.
"""

from collections.abc import Sequence
from pathlib import Path

from llm.data.tasks import TASKS, WRITING
from llm.formats.base import load_base, load_tokenizer
from llm.formats.finetuned import save_finetuned
from llm.formats.peft_import import import_peft, task_type
from llm.formats.record import BaseRecord, RunRecord
from llm.lora.settings import LoRASettings
from llm.model.classifier import GPTClassifier
from llm.model.parameters import fingerprint
from llm.utils.errors import InputError
from llm.utils.files import locked_folder


def import_folder(
    folder: str | Path,
    out: str | Path,
    model: str = "gpt2",
    weights: str = "pretrained",
    seed: int = 0,
    labels: Sequence[str] = TASKS["spam"].labels,
) -> RunRecord:
    """Write what `peft` saved in `folder` as a fine-tuned folder `out`.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        model, weights, seed: the base that it was trained on, as `load_base` takes them.
        labels: of a classifier (SEQ_CLS), in the order of its head's outputs; a model that writes
            (CAUSAL_LM) has none.

    Returns:
        the record in `out`.

    Raises:
        InputError: anything about the folders, see `import_peft`; labels that are no two names.
    """
    if Path(folder).resolve() == Path(out).resolve():
        raise InputError(f"{out} is what is to be imported; choose another", settings=("out",))
    writes = task_type(folder) == "CAUSAL_LM"
    labels = [] if writes else list(labels)
    if not writes and (len(set(labels)) != 2 or len(labels) != 2 or not all(labels)):
        raise InputError(f"a classifier tells two labels apart, not {labels}", settings=("labels",))
    body = load_base(model, weights, seed)
    load_tokenizer(model, body.config.vocab_size)  # refuses a base that nobody can talk to
    base = BaseRecord(str(model), weights, seed, fingerprint(body))
    adapted = body if writes else GPTClassifier(body.config, body=body, pool="last")
    settings = import_peft(adapted, folder)
    record = RunRecord(
        config=body.config,
        method="lora",
        task=WRITING if writes else _task_of(labels),
        labels=labels,
        base=base,
        lora=LoRASettings(**settings),
        pool="last",
    )
    with locked_folder(out):
        return save_finetuned(out, adapted, record)


def _task_of(labels: list[str]) -> str:
    """The task of these labels: its texts are then read as in training; else a name of its own."""
    known = {task.labels: name for name, task in TASKS.items()}
    return known.get(tuple(labels), " or ".join(labels))
