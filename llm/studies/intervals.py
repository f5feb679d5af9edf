"""How far a small test set can mislead: intervals, and the noise in a spread over splits.

    python -m llm.studies.intervals data/results.json

Of 896 test messages 104 are spam. Draw another 104, and F1 is another one, though the model has
not become better or worse. This file asks how much of what several splits show is only that.
"""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llm.figures.style import NAMES
from llm.studies.summary import mean_and_std
from llm.utils.errors import InputError
from llm.utils.files import read_json
from llm.utils.program import Parser, run

DRAWS = 200_000  # test sets drawn for a spread; its third digit holds still
RESAMPLES = 10_000  # of one test set
Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


def share_interval(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, after Wilson (1927).

    Unlike hits/of plus or minus two standard deviations it stays between 0 and 1, and is not of
    length zero where all or none hit: of 5 out of 5 the interval is 0.57 to 1.
    """
    if not 0 <= hits <= of or of < 1:
        raise InputError(f"{hits} of {of} is no share")
    share, spare = hits / of, Z**2 / of
    middle = (share + spare / 2) / (1 + spare)
    half = Z * (share * (1 - share) / of + spare / of / 4) ** 0.5 / (1 + spare)
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def f1_interval(labels: Sequence[int], predicted: Sequence[int]) -> tuple[float, float]:
    """The 95 % interval of the F1 on one test set, by bootstrap (Efron 1979).

    The messages are drawn again, with replacement, as many of each class as there are. It says
    how far other messages would move F1, and nothing about another training run.

    Args:
        labels, predicted: 0 or 1 a message.
    """
    truth, said = np.asarray(labels, bool), np.asarray(predicted, bool)
    hits, alarms = said[truth].mean(), said[~truth].mean()
    f1 = _drawn_f1(hits, alarms, int(truth.sum()), int((~truth).sum()), RESAMPLES)
    low, high = np.percentile(f1, [2.5, 97.5])
    return float(low), float(high)


def sampling_spread(scores: list[dict], positives: int, negatives: int) -> dict[str, float]:
    """What a model whose error rates never change would show over several test sets.

    The rates are those of all given test sets together: the share of positives that are found, and
    of negatives that raise a false alarm. Then test sets are drawn: each of their messages is right
    or wrong by these rates, independently of the others. That is a bootstrap of the recorded
    right and wrong answers, class by class. Splits of one collection share messages, which makes
    their spread a little smaller than that of test sets drawn anew.

    Args:
        scores: the metrics of each test set (`precision`, `recall`, `accuracy`, `f1`).
        positives, negatives: messages of each class in a test set.

    Returns:
        `measured`: the standard deviation of F1 over the test sets (n - 1); `noise`: that of the
        drawn ones; `low`, `high`: where 95 % of the standard deviations lie that as many drawn test
        sets as there are scores would show.

    Raises:
        InputError: fewer than two scores, or counts that do not go with them.
    """
    if len(scores) < 2:
        raise InputError("one split has no spread; measure several (compare --splits 10)")
    found = [answered(metrics, positives, negatives) for metrics in scores]
    hits, alarms = np.mean(found, axis=0) / (positives, negatives)
    f1 = _drawn_f1(hits, alarms, positives, negatives, DRAWS - DRAWS % len(scores))
    stds = f1.reshape(-1, len(scores)).std(1, ddof=1)
    low, high = np.percentile(stds, [2.5, 97.5])
    measured = mean_and_std([metrics["f1"] for metrics in scores])["std"]
    return {
        "measured": measured,
        "noise": float(f1.std()),
        "low": float(low),
        "high": float(high),
    }


def answered(metrics: dict, positives: int, negatives: int) -> tuple[int, int]:
    """Positives found and false alarms raised, told from the rounded-off metrics of a test set.

    Raises InputError where they do not give back the accuracy: other counts, or another file.
    """
    hits = round(metrics["recall"] * positives)
    alarms = round(hits / metrics["precision"]) - hits if metrics["precision"] else 0
    accuracy = (hits + negatives - alarms) / (positives + negatives)
    if abs(accuracy - metrics["accuracy"]) > 1e-6:
        raise InputError(
            f"an accuracy of {metrics['accuracy']:.4f} is not that of {positives} positive and "
            f"{negatives} other messages at this precision and recall"
        )
    return hits, alarms


def spreads(results: dict) -> dict[str, dict[str, float]]:
    """`sampling_spread` of every method and baseline of a results.json over several splits."""
    if not {"data", "runs"} <= results.keys() or "spam_share" not in results["data"]:
        raise InputError("these are not the results of a comparison on spam")
    test = results["data"]["test"]
    positives = round(test * results["data"]["spam_share"])
    scores: dict[str, list[dict]] = {}
    for entry in results["runs"]:
        scores.setdefault(entry["method"], []).append(entry["test"])
    for entry in results.get("baseline_runs", []):
        for name, metrics in entry.items():
            if name != "split_seed" and metrics["f1"]:  # always ham has neither F1 nor spread
                scores.setdefault(name, []).append(metrics)
    return {
        name: sampling_spread(metrics, positives, test - positives)
        for name, metrics in scores.items()
    }


def _drawn_f1(hits: float, alarms: float, positives: int, negatives: int, draws: int) -> np.ndarray:
    """The F1 of test sets whose messages are right or wrong by two rates: (draws,)."""
    rng = np.random.default_rng(0)
    found = rng.binomial(positives, hits, draws)
    false = rng.binomial(negatives, alarms, draws)
    return 2 * found / (found + false + positives)


def parse() -> Namespace:
    """The program's options."""
    parser = Parser(prog="python -m llm.studies.intervals", description=__doc__)
    parser.add_argument("results", type=Path, help="a results.json of compare --splits")
    return parser.parse_args()


def main() -> int:
    """Print measured spread and noise, in points of F1. Returns the exit status."""
    given = parse()

    def show() -> None:
        found_in = spreads(read_json(given.results))
        print("standard deviation of F1, points   measured  sampling alone  as many splits show")
        for name, found in found_in.items():
            points = {key: 100 * value for key, value in found.items()}
            print(
                f"{NAMES[name]:<33} {points['measured']:9.2f} {points['noise']:15.2f}"
                f"   {points['low']:.2f} to {points['high']:.2f}"
            )

    return run(show)


if __name__ == "__main__":
    raise SystemExit(main())
