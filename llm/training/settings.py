"""What can be chosen about a training, with every default. Needs no torch.

The command line takes its options' defaults from here (`llm.cli.parser`).
"""

import math
from dataclasses import asdict, dataclass, field, replace

from llm.data.tasks import WRITING
from llm.lora.settings import (
    LoRASettings,
    check_choices,
    check_method,
    check_quantize,
    resolve,
)
from llm.utils.errors import InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "bf16")
OPTIMIZERS = ("adamw", "muon")

# Highest learning rate of each method. Chosen on the validation messages alone: a first search
# (data/learning_rates.json), and one beyond its edges (data/learning_rates_wider.json,
# `python -m llm.studies.learning_rates`). Full fine-tuning
# has the rate of the lowest loss: in F1 the next higher one is ahead by less than a message.
LEARNING_RATES = {"full": 8e-4, "last_block": 3e-3, "head": 1e-2, "lora": 5e-3}

# Those that learn from the labels alone, without a language-model loss, want less
# (data/learning_rates_plain.json, `python -m llm.studies.learning_rates --recipe plain`).
LABELS_ALONE = {"last_block": 1e-3, "lora": 1.5e-3}

# The same for writing, found by `compare --task writing --search`: data/voices_ham.json and
# voices_spam.json. LoRA's best is 2.5e-3 on many messages (ham) and 5e-3 on few (spam); at 1e-2 ham
# is learned badly, so the default keeps its distance. Higher ranks want less.
WRITING_RATES = {"full": 2e-4, "last_block": 3e-3, "lora": 2.5e-3}

WRITING_RANKS = (1, 8, 64)  # of a comparison

BATCH_SIZE = 32  # messages a step
WRITING_BATCH_SIZE = 8

# Settings of one kind of task, which the other has no use for.
CLASSIFYING = ("balanced", "pool", "lm_loss", "bpe_dropout")
WRITING_ALONE = ("text", "mask_digits")

# What a message is read and trained with beside its label. `plain` is
# nearest to the book's (Raschka 2024, appendix E), from which this project grew.
RECIPES = {
    "default": {},
    "plain": {"pool": "last", "lm_loss": 0.0, "bpe_dropout": 0.0, "keep": "best"},
}


@dataclass(frozen=True)
class FinetuneSettings:
    """Everything that decides how a run of `llm.training.finetuning` ends."""

    method: str = "lora"  # or an alias of it, which becomes `lora` and its settings
    lora: LoRASettings = field(default_factory=LoRASettings)
    model: str = "mini"  # a preset's name or a folder
    weights: str = "pretrained"  # or "random"
    task: str = "spam"
    data: str | None = None  # None: the messages that are installed; "full"; a file
    balanced: bool = False  # as many ham as spam in the training messages
    limit: int | None = None  # training messages; None: all
    epochs: int = 2
    batch_size: int | None = None  # messages; None: BATCH_SIZE, to write WRITING_BATCH_SIZE
    lr: float | None = None  # None: of LEARNING_RATES, LABELS_ALONE or WRITING_RATES
    lr_ratio: float = 1.0  # LoRA+: the rate of B, times that of A; see `llm.training.step`
    precision: str = "fp32"
    seed: int = 0  # of the head, of A and of the order of the messages
    split_seed: int = 0  # of the split into training, validation and test messages
    variants_together: bool = True  # variants of a message all go to one part of the split
    all_messages: bool = False  # train on validation and test messages, too: to use, not to measure
    hold_out: bool = False  # validate on 3 in 10 of the training messages, not on the split's own
    pool: str = "mean"  # what the head reads: the mean of a message's tokens, or the last
    lm_loss: float = 0.5  # weight of the next-token loss on the messages
    bpe_dropout: float = 0.1  # merges left out when training messages are cut into tokens
    keep: str = "last"  # the last epoch's weights, or the best on validation
    text: list[str] | None = None  # to write: "ham", "spam", or files (`llm.data.documents`)
    mask_digits: bool = False  # to write: 0 for every digit of the text

    def __post_init__(self):
        method, lora = resolve(self.method, self.lora)
        object.__setattr__(self, "method", method)
        object.__setattr__(self, "lora", lora)
        check_method(self.method)
        check_choices(self.lora)
        check_quantize(self.method, self.lora)
        self._check_task()
        for name, choices in (("pool", ("mean", "last")), ("keep", ("last", "best"))):
            if getattr(self, name) not in choices:
                raise InputError(f"{name} must be {' or '.join(choices)}", settings=(name,))
        if not 0 <= self.bpe_dropout < 1:
            raise InputError(f"BPE-dropout must be in [0, 1), not {self.bpe_dropout}")
        if not 0 <= self.lm_loss < math.inf:
            raise InputError(f"the weight of a loss is 0 or more, not {self.lm_loss}")
        if self.batch_size is None:
            usual = WRITING_BATCH_SIZE if self.writes else BATCH_SIZE
            object.__setattr__(self, "batch_size", usual)
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.lr is None:
            rates = LEARNING_RATES if self.lm_loss else LEARNING_RATES | LABELS_ALONE
            rates = WRITING_RATES if self.writes else rates
            object.__setattr__(self, "lr", rates[self.method])
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"the learning rate must be a positive number, not {self.lr}")
        check_ratio(self.lr_ratio)

    @property
    def writes(self) -> bool:
        """Whether a model is to learn to write, and not to tell messages apart."""
        return self.task == WRITING

    def _check_task(self) -> None:
        """Raise InputError where an option belongs to the other kind of task."""
        if not self.writes:
            for name in WRITING_ALONE:
                if getattr(self, name):
                    raise InputError(
                        f"{name} is for a model that writes", settings=(name, f"task={WRITING}")
                    )
            return
        for name in CLASSIFYING:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"{name} is for telling messages apart; a model that writes has no use for it",
                    settings=(name,),
                )
        if self.method == "head":
            raise InputError("a model that writes has no head to train", settings=("method=lora",))
        if not self.text or isinstance(self.text, str):
            raise InputError(
                "to write, a model needs text to learn from: ham, spam, or a list of text files",
                settings=("text",),
            )
        object.__setattr__(self, "text", [str(name) for name in self.text])

    def to_dict(self) -> dict:
        """As plain JSON: what tells one run from another, so without what this task does not use.

        Folders from before models could write are known again by it.
        """
        unused = CLASSIFYING if self.writes else WRITING_ALONE
        unused += ("lr_ratio",) if self.lr_ratio == 1 else ()
        known = {name: value for name, value in asdict(self).items() if name not in unused}
        return {**known, "lora": self.lora.to_dict()}

    @classmethod
    def from_dict(cls, content: dict) -> "FinetuneSettings":
        """From what `to_dict` or `dataclasses.asdict` made of it, by way of JSON too."""
        return cls(**{**content, "lora": LoRASettings(**content["lora"])})


@dataclass(frozen=True)
class PretrainSettings:
    """The recipe. The defaults are made for one large GPU and some 100 MB of text.

    They are the settings of the bundled `mini`: 491 million tokens, 14 passes over its corpus
    (data/README.md tells how they were found).
    """

    steps: int = 15_000
    schedule_steps: int = 0  # steps the cosine is laid out for, if not `steps`: to end before it
    batch_size: int = 64  # windows a step, over all parts and processes
    lr: float = 4e-3
    optimizer: str = "muon"  # or "adamw"
    warmup_share: float = 0.03  # of the schedule
    final_lr_share: float = 0.0
    weight_decay: float = 0.2
    beta2: float = 0.95
    document_starts: float = 0.0  # share of the windows that begin where a document does
    text_speak: bool = False  # learn from a copy of the conversations in text speak, too
    accumulate: int = 1  # parts that a step's windows are worked through in
    evaluate_every: int = 1000  # steps
    log_every: int = 50  # steps
    precision: str = "auto"  # bf16 on a GPU, fp32 elsewhere
    compile: bool | None = None  # None: on a GPU
    cuda_graphs: bool | None = None  # None: on a GPU
    seed: int = 0

    def __post_init__(self):
        for name in ("document_starts", "warmup_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share from 0 to 1, not {getattr(self, name)}")
        if self.batch_size < 1 or self.batch_size % self.accumulate:
            raise InputError(
                f"a batch of {self.batch_size} windows cannot be worked through in "
                f"{self.accumulate} equal parts"
            )

    def on(self, device: str) -> "PretrainSettings":
        """With `auto` settled for a device."""
        precision = ("bf16" if device == "cuda" else "fp32") if self.precision == "auto" else None
        compiled = device == "cuda" if self.compile is None else self.compile
        graphs = device == "cuda" if self.cuda_graphs is None else self.cuda_graphs
        return replace(
            self, precision=precision or self.precision, compile=compiled, cuda_graphs=graphs
        )


@dataclass(frozen=True)
class TrainSettings:
    """What `llm.training.loop.train` is told; the defaults suit fine-tuning."""

    steps: int  # optimizer steps in all
    lr: float  # the highest learning rate, reached after the warm-up
    lr_ratio: float = 1.0  # LoRA+: the rate of B, times that of A; see `llm.training.step`
    optimizer: str = "adamw"  # or "muon", for training from scratch
    schedule_steps: int = 0  # steps the schedule is laid out for; 0: `steps`
    warmup_share: float = 0.1  # of the schedule
    final_lr_share: float = 0.0  # of `lr`, at the end of the cosine
    weight_decay: float = 0.01  # on matrices; never on biases and LayerNorms
    beta1: float = 0.9
    beta2: float = 0.999
    clip_norm: float = 1.0  # longest gradient
    accumulate: int = 1  # micro-batches that a batch is computed in, to save memory
    evaluate_every: int = 0  # steps; 0: never
    checkpoint_every: int = 0  # steps; 0: at each evaluation
    keep_best: bool = True  # end with the weights that scored best on validation
    log_every: int = 1  # steps between two entries of the loss curve
    precision: str = "fp32"
    compile: bool = False  # torch.compile, worth it for long runs on a GPU
    cuda_graphs: bool = False  # replay each step as one CUDA graph; for batches of few shapes
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.accumulate < 1 or self.log_every < 1:
            raise InputError("steps, accumulate and log_every must be at least 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be {' or '.join(OPTIMIZERS)}, not {self.optimizer!r}")
        if 0 < self.schedule_steps < self.steps or self.schedule_steps < 0:
            raise InputError(f"a schedule of {self.schedule_steps} steps ends before the training")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"the learning rate must be a positive number, not {self.lr}")
        check_ratio(self.lr_ratio)


def check_ratio(ratio) -> None:
    """Raise InputError when one rate cannot be so many times another."""
    if not (isinstance(ratio, int | float) and math.isfinite(ratio) and ratio > 0):
        raise InputError(
            f"the ratio of two learning rates is a number above 0, not {ratio!r}",
            settings=("lr_ratio",),
        )
