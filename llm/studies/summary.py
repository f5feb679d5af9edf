"""What several runs have in common: mean and standard deviation."""

import statistics


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
