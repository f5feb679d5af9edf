"""What several runs have in common: means, deviations, and differences split by split."""

import statistics

import numpy as np
from scipy import stats

RESAMPLES = 10_000


def mean_and_std(values: list[float]) -> dict[str, float | None]:
    """`mean`, and the sample's standard deviation `std` (n - 1), None for a single value."""
    return {
        "mean": statistics.fmean(values),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


def means_and_stds(columns: dict[str, list[float]]) -> dict[str, float | None]:
    """{"f1": [...]} -> {"f1_mean": ..., "f1_std": ...}, for every column."""
    return {
        f"{key}_{name}": value
        for key, values in columns.items()
        for name, value in mean_and_std(values).items()
    }


def paired_difference(left: list[float], right: list[float]) -> dict[str, float]:
    """How much higher `left` is than `right`, split by split, and how sure that is.

    A split that is hard is hard for both, so the differences scatter less than either. The
    interval is a bootstrap's (Efron 1979): how far the mean moves when the splits are drawn again,
    with replacement. Splits share messages, so it is a little too narrow.

    Args:
        left, right: one value a split, in the same order.

    Returns:
        `mean`, and the ends `low` and `high` of the 95 % interval.
    """
    differences = np.subtract(left, right)
    draws = np.random.default_rng(0).integers(len(left), size=(RESAMPLES, len(left)))
    low, high = np.percentile(differences[draws].mean(1), [2.5, 97.5])
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def student_interval(left: list[float], right: list[float]) -> dict[str, float]:
    """The same difference with Student's interval (1908), which knows how few the pairs are.

    A bootstrap draws from what it has, and of five differences it has seen too little: its 95 %
    are then some 83 %. Student's interval is right for differences that scatter normally.

    Args:
        left, right: one value a pair, at least two, in the same order.

    Returns:
        `low` and `high`, the ends of the 95 % interval.
    """
    differences = np.subtract(left, right)
    spread = differences.std(ddof=1) / len(differences) ** 0.5
    half = float(stats.t.ppf(0.975, len(differences) - 1) * spread)
    return {"low": float(differences.mean()) - half, "high": float(differences.mean()) + half}
