"""Every way to learn to write, side by side: what each learns, and what it forgets.

After Biderman et al. 2024, "LoRA Learns Less and Forgets Less": learned is what was saved on unseen
messages of the voice, forgotten is what was lost on everyday English that it was not trained on.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llm.formats.finetuned import load_finetuned
from llm.lora.settings import LoRASettings, check_method, resolve
from llm.studies.text_baselines import bytes_of, kneser_ney_baseline, xz_baseline
from llm.studies.voice_measures import measure, measure_base, texts_of, unseen_texts
from llm.studies.voice_summary import behind_full, means_of_baselines, summarise
from llm.studies.worker import run_in_fresh_process
from llm.training.device import pick_device
from llm.training.settings import WRITING_RATES, FinetuneSettings
from llm.utils.errors import InputError
from llm.utils.files import locked_folder, write_json

RESULTS = "results.json"
STEP = 2  # between two rates of a search


@dataclass(frozen=True)
class Way:
    """A method, and for LoRA a rank; at every rank the update is scaled alike."""

    method: str  # or an alias, as in `llm.lora.settings`
    rank: int | None = None

    @property
    def name(self) -> str:
        """As it stands in results.json."""
        return self.method if self.rank is None else f"{self.method}_{self.rank}"

    def settings(self, common: FinetuneSettings, **others) -> FinetuneSettings:
        """Those of a run of it."""
        lora = common.lora
        if self.rank is not None:
            lora = replace(lora, rank=self.rank, alpha=lora.alpha / lora.rank * self.rank)
        return replace(common, method=self.method, lora=lora, **others)


@dataclass(frozen=True)
class Place:
    """Where and how runs are made: as `llm.studies.worker.run_in_fresh_process` is told."""

    folder: Path
    resume: bool
    device: str
    quiet: bool

    def run(self, settings: FinetuneSettings, name: str) -> dict:
        """A run's record, made or, with `resume`, found."""
        where = self.folder / name
        return run_in_fresh_process(settings, where, self.resume, self.device, self.quiet)

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            print(text, file=sys.stderr)


def usual_rate(method: str) -> float:
    """The learning rate where none is given. Raises InputError for what cannot write."""
    method, _ = resolve(method, LoRASettings())
    check_method(method)
    if method not in WRITING_RATES:
        raise InputError(
            f"a model that writes has no {method} to train", settings=("methods=lora,full",)
        )
    return WRITING_RATES[method]


def ways_of(methods: Sequence[str], ranks: Sequence[int]) -> list[Way]:
    """Each method once, LoRA once a rank.

    Raises InputError for a method that does not exist or cannot write.
    """
    found: list[Way] = []
    for method in methods:
        usual_rate(method)  # there is none for what cannot write
        lora = resolve(method, LoRASettings())[0] == "lora"
        found += [Way(method, rank) for rank in ranks] if lora else [Way(method)]
    if not found:
        raise InputError("no method to compare; name at least one", settings=("methods",))
    return list(dict.fromkeys(found))


def compare_voices(
    ways: Sequence[Way],
    seeds: Sequence[int],
    settings: FinetuneSettings,
    out: str | Path,
    lr: float | None = None,
    search: bool = False,
    resume: bool = False,
    device: str = "auto",
    quiet: bool = False,
    splits: Sequence[int] = (),
) -> dict:
    """Train each way, each run in a fresh process, and measure it on what else it may have known.

    Args:
        ways: see `ways_of`.
        seeds: a run of each way for each of them.
        settings: of all runs; method, rank, learning rate, seed and split seed are filled in.
        out: the folder for results.json; the runs go to `out/runs`.
        lr: the highest learning rate of all; None: each method's own.
        search: look for a better rate for each way first, see `search_rate`.
        resume: go on after an interruption; runs that are done are not made again.
        splits: split seeds; none: that of `settings`.

    Returns:
        the content of results.json. A run has `test` (unseen documents of the voice), `other` (of
        the other label, if the text is one label) and `english`, with their bits a byte.

    Raises:
        InputError: from the first run that fails, in its words.
        KeyboardInterrupt: passed on; what was trained so far is kept.
    """
    splits = list(splits) or [settings.split_seed]
    with locked_folder(out) as folder:
        place = Place(folder / "runs", resume, device, quiet)
        rates = {way.name: {"chosen": lr or usual_rate(way.method)} for way in ways}
        if search:
            first = replace(settings, split_seed=splits[0], seed=seeds[0])
            rates = {
                way.name: search_rate(way, first, rates[way.name]["chosen"], place) for way in ways
            }
        runs, records, baseline_runs, n_bytes = [], [], [], []
        bits: dict[str, list[list]] = {way.name: [[] for _ in seeds] for way in ways}
        for split_seed in splits:
            here = replace(settings, split_seed=split_seed)
            texts = texts_of(here)
            unseen = unseen_texts(here, texts.test)
            n_bytes += map(bytes_of, texts.test)
            baseline_runs.append(
                {
                    "split_seed": split_seed,
                    "base": measure_base(here, unseen, pick_device(device)),
                    "kneser_ney": kneser_ney_baseline(texts.train, texts.validation, unseen),
                    "xz": xz_baseline(texts.train, unseen),
                }
            )
            for number, seed in enumerate(seeds):
                for way in ways:
                    run = way.settings(here, lr=rates[way.name]["chosen"], seed=seed)
                    name = run_name(way.name, seed, split_seed)
                    runs.append(place.run(run, name))
                    model, tokenizer, _ = load_finetuned(place.folder / name, pick_device(device))
                    metrics, each = measure(model, tokenizer, unseen)
                    bits[way.name][number] += each.tolist()
                    records.append({"way": way.name, **runs[-1]["record"], **metrics})
                    records[-1]["method"] = way.method  # by the name that was asked for
                    place.say(
                        f"{name}: {records[-1]['train_seconds']:.0f} s, "
                        f"{metrics['test']['bits_per_byte']:.3f} bits per byte"
                    )
        results = {
            "model": runs[0]["base"]["model"],
            "weights": runs[0]["base"]["weights"],
            "device": runs[0]["device"],
            "torch": torch.__version__,
            "data": runs[0]["data"],
            "settings": runs[0]["settings"],
            "seeds": list(seeds),
            "splits": splits,
            "rates": rates,
            "runs": records,
            "baselines": means_of_baselines(baseline_runs),
            "baseline_runs": baseline_runs,
            "summary": summarise(records, baseline_runs),
            "paired": behind_full(bits, n_bytes),
        }
        write_json(folder / RESULTS, results)
    return results


def run_name(way: str, seed: int, split_seed: int) -> str:
    """The folder of a run, in `runs`."""
    return f"{way}-seed{seed}-split{split_seed}"


def search_rate(way: Way, settings: FinetuneSettings, usual: float, place: Place) -> dict:
    """The learning rate that is best on the validation documents, from the usual one on.

    One to either side is tried, and as long as the best is at an end, one more there.

    Returns:
        `chosen`, and `grid`: {"learning_rate", "validation_bits_per_byte"} for each one tried.
    """
    grid: dict[float, float] = {}

    def trial(rate: float) -> None:
        run = way.settings(settings, lr=rate)
        record = place.run(run, f"rate-{way.name}-{rate:g}")["record"]
        grid[rate] = record["validation"]["bits_per_byte"]  # never ["test"]
        place.say(f"{way.name} at {rate:g}: validation {grid[rate]:.3f} bits per byte")

    for rate in (usual / STEP, usual, usual * STEP):
        trial(rate)
    while (best := min(grid, key=grid.__getitem__)) in (min(grid), max(grid)) and len(grid) < 7:
        trial(best / STEP if best == min(grid) else best * STEP)
    return {
        "chosen": best,
        "grid": [
            {"learning_rate": rate, "validation_bits_per_byte": grid[rate]} for rate in sorted(grid)
        ],
    }
