"""`run.json`: what a fine-tuned folder says of itself, read and checked once, here.

Whoever holds a `RunRecord` can rely on every field; nobody else looks into the JSON.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from llm.data.tasks import WRITING
from llm.lora.settings import LoRASettings, check_choices, check_method, check_settings
from llm.model.config import GPTConfig
from llm.utils.errors import InputError
from llm.utils.files import read_json

RUN = "run.json"
FORMAT = 1
MEND = "write the folder anew"
# What stands in the file, by name, and its kind in JSON. Merging leaves out the second part, and
# the first adapters had no SHA-256 yet.
REQUIRED = {"config": dict, "method": str, "task": str, "labels": list, "base": dict}
OPTIONAL = {
    **{"lora": dict, "settings": dict, "data": dict, "torch": str, "device": str},
    **{"merged_from": str, "weights_sha256": str, "record": dict, "pool": str},
}


@dataclass(frozen=True)
class BaseRecord:
    """The base that was trained on: how to load it, and how to recognise it."""

    model: str  # a preset's name or a folder
    weights: str  # "pretrained" or "random"
    seed: int  # of random weights
    fingerprint: str  # SHA-256 of all its weights, by `llm.model.parameters.fingerprint`


@dataclass(frozen=True)
class RunRecord:
    """A fine-tuned model: what was trained, on what, how, and what came of it."""

    config: GPTConfig
    method: str  # of `llm.lora.methods.METHODS`
    task: str  # of `llm.data.tasks.TASKS`, or WRITING
    labels: list[str]  # names of label 0 and label 1; none for a model that writes
    base: BaseRecord
    lora: LoRASettings | None = None  # None for the other methods
    pool: str = "last"  # what the head reads, as in `llm.model.classifier`
    settings: dict | None = None  # all of `FinetuneSettings`, to tell one run from another
    data: dict | None = None  # the `data` object of results.json
    torch: str | None = None  # its version
    device: str | None = None
    merged_from: str | None = None  # the folder whose adapter was folded into the base
    weights_sha256: str | None = None  # of the file of tensors; None in folders of old
    results: dict | None = None  # a run of results.json; in the file it is called `record`

    @property
    def writes(self) -> bool:
        """Whether it is a language model, and not one that tells messages apart."""
        return self.task == WRITING

    @property
    def quantize(self) -> str | None:
        """What W was kept in while A and B were trained beside it, and has to be kept in now."""
        return self.lora.quantize if self.lora else None

    @property
    def masks_digits(self) -> bool:
        """Whether it was trained on text with 0 for every digit."""
        return bool((self.data or {}).get("digits_masked"))

    @property
    def weights_file(self) -> str:
        """The name of the file beside `run.json` that holds the trained tensors."""
        return "adapter.safetensors" if self.method == "lora" else "model.safetensors"

    def merged(self, folder: str | Path) -> "RunRecord":
        """The record of the plain model that is left when the adapter in `folder` is merged."""
        run = dict.fromkeys(("lora", "settings", "torch", "device", "weights_sha256", "results"))
        return replace(self, method="full", merged_from=str(folder), **run)

    def to_dict(self) -> dict:
        """As plain JSON. What is None is left out, except `lora`."""
        content = {"format": FORMAT, **asdict(self)}
        content["record"] = content.pop("results")
        content["lora"] = self.lora and self.lora.to_dict()
        return {name: x for name, x in content.items() if x is not None or name == "lora"}

    @classmethod
    def from_dict(cls, content: dict, where: str = RUN) -> "RunRecord":
        """From plain JSON.

        Args:
            where: the file's name, for the error messages.

        Raises:
            InputError: an unknown format, and anything missing, unknown or of the wrong kind.
        """
        given = content.get("format")
        if type(given) is not int or given != FORMAT:
            raise InputError(f"{where}: format {given!r} is unknown; expected {FORMAT}")
        found = {name: value for name, value in content.items() if value is not None}
        del found["format"]
        for name, kind in (REQUIRED | OPTIONAL).items():
            if not isinstance(found.get(name), kind) and (name in found or name in REQUIRED):
                raise InputError(f"{where}: {name} is missing or damaged; {MEND}")
        if unknown := sorted(set(found) - set(REQUIRED | OPTIONAL)):
            raise InputError(f"{where}: {', '.join(unknown)} cannot be read; {MEND}")
        check_method(found["method"])
        labels = found["labels"]
        named = all(isinstance(label, str) for label in labels)
        count = 0 if found["task"] == WRITING else 2
        if not named or not len(labels) == len(set(labels)) == count:
            wanted = "two different names" if count else "none for a model that writes"
            raise InputError(f"{where}: labels must be {wanted}, not {labels!r}")
        if found.get("pool", "last") not in ("last", "mean"):
            raise InputError(f"{where}: pool must be last or mean, not {found['pool']!r}; {MEND}")
        found["config"] = GPTConfig.from_dict(found["config"], f"{where}: config")
        found["base"] = _base(found["base"], where)
        found["lora"] = _lora(found.get("lora"), found["method"], where)
        found["results"] = found.pop("record", None)
        return cls(**found)


def read_record(folder: str | Path, writes: bool | None = None) -> "RunRecord":
    """The record of a folder.

    Args:
        writes: True takes only a model that writes, False only one that tells messages apart.

    Raises:
        InputError: not a fine-tuned folder, or one of the other kind.
    """
    path = Path(folder) / RUN
    if not path.exists():
        raise InputError(f"{folder} is no fine-tuned folder (it has no {RUN}); make one: finetune")
    record = RunRecord.from_dict(read_json(path), str(path))
    if writes is False and record.writes:
        raise InputError(
            f"{folder} is a model that writes, and tells no messages apart; let it write",
            command=f"generate --from {folder}",
        )
    if writes and not record.writes:
        raise InputError(
            f"{folder} tells messages apart (task {record.task}), and does not write; ask it",
            command=f"predict --from {folder}",
        )
    return record


def _base(content: dict, where: str) -> BaseRecord:
    content = {"seed": 0, **content}
    kinds = {"model": str, "weights": str, "seed": int, "fingerprint": str}
    kinds_found = {name: type(value) for name, value in content.items()}
    if kinds_found != kinds or not 0 <= content["seed"] < 2**63:
        raise InputError(f"{where}: base is damaged; {MEND}")
    return BaseRecord(**content)


def _lora(content: dict | None, method: str, where: str) -> LoRASettings | None:
    if method != "lora":
        if content is not None:
            raise InputError(f"{where}: lora does not belong to the method {method}; {MEND}")
        return None
    try:
        if not {"rank", "alpha", "targets"} <= set(content or {}):
            raise InputError("rank, alpha or targets are missing")
        settings = LoRASettings(**content)
        check_settings(settings.rank, settings.alpha, settings.dropout)
        check_choices(settings)
        if settings.init != "default":
            raise InputError("an adapter is stored as plain LoRA, with the init default")
        names = settings.targets if isinstance(settings.targets, list) else None
        if settings.targets != "all" and not all(isinstance(name, str) for name in names or [0]):
            raise InputError("targets are no names")
        if not isinstance(settings.rslora, bool):
            raise InputError(f"rslora must be true or false, not {settings.rslora!r}")
    except (TypeError, InputError) as error:  # TypeError: an unknown name
        raise InputError(f"{where}: lora is damaged ({error}); {MEND}") from None
    return settings
