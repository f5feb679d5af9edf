"""What the study of LoRA's knobs turns, one at a time, and the two tasks that it turns them on.

The default is this project's: rank 8, alpha 16, beside every Linear of every block. A cell differs
from it in one knob; rank, the rule for alpha, and the learning rate are turned together, since what
one does depends on the others.

What LoRA adds is multiplied by a scale, and the rules say how that goes with the rank. All three
agree on the default, a scale of 2 at rank 8:

* `alpha 16`: alpha stays, so the scale is 16 / rank (Hu et al. 2021, section 4.1);
* `alpha 2r`: alpha is twice the rank, so the scale is 2 at every rank;
* `rsLoRA`: the scale is 4 sqrt(2) / sqrt(rank) (Kalajdzievski 2023, "A Rank Stabilization Scaling
  Factor for Fine-Tuning with LoRA").
"""

import math
from dataclasses import dataclass, field, replace

from llm.lora.settings import LoRASettings
from llm.training.settings import LEARNING_RATES, WRITING_RATES, FinetuneSettings

ATTENTION = ["W_query", "W_key", "W_value", "out_proj"]
MLP = ["fc1", "fc2"]
WRITING, SPAM = "writing", "spam"
DEFAULT = "default"


@dataclass(frozen=True)
class Task:
    """What is trained, and what counts.

    Args:
        settings: of its runs.
        units: pairs of seeds, (of the run, of the split): a run of each cell for each.
        searched: how many of the units, the first, a rate is chosen on.
        rates: where the search of a rate begins, by method.
        chosen_by: the metric of the validation part that chooses a rate; less is better.
        measured: the metrics of the test part that are kept; the first is the one to look at.
    """

    settings: FinetuneSettings
    units: tuple[tuple[int, int], ...]
    searched: int
    rates: dict[str, float]
    chosen_by: str
    measured: tuple[str, ...]


# Where a search begins is where its runs are saved, not where it ends.
# F1 on 448 messages is too coarse to choose by: a step of a rate moves it by a message or none.
TASKS = {
    WRITING: Task(
        FinetuneSettings(task="writing", text=["ham"]),
        tuple((number, number) for number in range(10)),
        1,
        WRITING_RATES,
        "bits_per_byte",
        ("bits_per_byte",),
    ),
    SPAM: Task(
        FinetuneSettings(),
        tuple((0, split) for split in range(10)),
        2,
        LEARNING_RATES,
        "loss",
        ("f1", "loss", "accuracy", "average_precision"),
    ),
}


@dataclass(frozen=True)
class Cell:
    """One setting of the knobs.

    Args:
        name: as it stands in tables.
        knob: what it turns.
        lora: what differs from `LoRASettings()`.
        guess: the middle of the first rates to try, times the task's first for the method.
        rates: how many are tried at first, a factor of 2 apart.
        tasks: that it is tried on.
        rule: for alpha, where rank and rule are turned.
    """

    name: str
    knob: str
    lora: dict = field(default_factory=dict)
    method: str = "lora"
    lr_ratio: float = 1.0
    guess: float = 1.0
    rates: int = 3
    tasks: tuple[str, ...] = (WRITING, SPAM)
    rule: str | None = None

    def settings(self, task: str, rate: float, seed: int, split_seed: int) -> FinetuneSettings:
        """Those of a run of it."""
        return replace(
            TASKS[task].settings,
            method=self.method,
            lora=replace(LoRASettings(), **self.lora),
            lr_ratio=self.lr_ratio,
            lr=rate,
            seed=seed,
            split_seed=split_seed,
        )

    def first_rates(self, task: str) -> list[float]:
        """The rates to try before any result is known, ascending."""
        half = self.rates // 2
        return [
            TASKS[task].rates[self.method] * self.guess * 2.0**power
            for power in range(-half, half + 1)
        ]


RULES = {
    "alpha 16": lambda rank: {"rank": rank, "alpha": 16},
    "alpha 2r": lambda rank: {"rank": rank, "alpha": 2 * rank},
    "rsLoRA": lambda rank: {"rank": rank, "alpha": round(2 * math.sqrt(8), 6), "rslora": True},
}


def _ranks(*ranks: int, **others) -> list[Cell]:
    """A cell for each rank and rule. Five rates at first: their whole course is of interest."""
    return [
        Cell(f"rank {rank}, {rule}", "rank", settings(rank), rates=5, rule=rule, **others)
        for rank in ranks
        for rule, settings in RULES.items()
    ]


def _placement(name: str, **lora) -> Cell:
    """Where LoRA stands; where the rank is another than 8, the scale is still 2."""
    if "rank" in lora:
        lora["alpha"] = 2 * lora["rank"]
    return Cell(name, "placement", lora)


# The most telling first: the study may be stopped at any time. Rank 18 in attention, 14 in the MLP
# and 16 in half of the blocks train as many numbers as the default, or (14) 3 % fewer.
CELLS = [
    Cell(DEFAULT, DEFAULT, rates=5),
    *_ranks(64, 1),
    Cell("NF4", "quantisation", {"quantize": "nf4"}),
    Cell("DoRA", "variant", {"variant": "dora"}),
    Cell("PiSSA start", "variant", {"init": "pissa"}, guess=0.25),
    Cell("LoRA+, ratio 16", "variant", lr_ratio=16.0, guess=0.25),
    _placement("attention, rank 18", targets=ATTENTION, rank=18),
    _placement("MLP, rank 14", targets=MLP, rank=14),
    _placement("upper half, rank 16", layers=[5, 6, 7, 8, 9], rank=16),
    Cell("int8", "quantisation", {"quantize": "int8"}),
    _placement("attention, rank 8", targets=ATTENTION),
    _placement("MLP, rank 8", targets=MLP),
    _placement("upper half, rank 8", layers=[5, 6, 7, 8, 9]),
    _placement("top two blocks, rank 8", layers=[8, 9]),
    _placement("query and value, rank 8", targets=["W_query", "W_value"]),
    _placement("lower half, rank 16", layers=[0, 1, 2, 3, 4], rank=16),
    Cell("full fine-tuning", "method", method="full"),
    Cell("LoRA+, ratio 4", "variant", lr_ratio=4.0, guess=0.5),
    *_ranks(2, 32, tasks=(WRITING,)),
]
