"""The comparison of ways to learn to write, put together: means, paired intervals, the table."""

import statistics
from collections.abc import Sequence

import numpy as np

from llm.studies.summary import RESAMPLES, means_and_stds
from llm.studies.tables import megabytes

MEASURED = {"test": "unseen", "other": "other voice", "english": "English"}
BASELINES = {"base": "the base", "kneser_ney": "Kneser-Ney", "xz": "xz -9"}


def way_label(way: str) -> str:
    """A way's name for people.

    >>> way_label("lora_8"), way_label("last_block")
    ('LoRA 8', 'last block')
    """
    return way.replace("lora", "LoRA").replace("_", " ")


def means_of_baselines(baseline_runs: Sequence[dict]) -> dict[str, dict]:
    """{baseline: {text: {"bits_per_byte": mean over the splits}}}."""
    return {
        name: {
            text: {
                "bits_per_byte": statistics.fmean(
                    run[name][text]["bits_per_byte"] for run in baseline_runs
                )
            }
            for text in MEASURED
            if text in baseline_runs[0][name]
        }
        for name in BASELINES
    }


def summarise(records: Sequence[dict], baseline_runs: Sequence[dict]) -> dict[str, dict]:
    """Mean and standard deviation over splits and seeds, a way.

    `learned` is what was saved on unseen texts of the voice, `forgotten_english` and
    `forgotten_other` what was lost on the others, in bits a byte against the base on that split.
    """
    base = {run["split_seed"]: run["base"] for run in baseline_runs}

    def lost(record: dict, text: str) -> float:
        before = base[record["split_seed"]][text]["bits_per_byte"]
        return record[text]["bits_per_byte"] - before

    found = {}
    for way in dict.fromkeys(record["way"] for record in records):
        mine = [record for record in records if record["way"] == way]
        columns = {"learned": [-lost(record, "test") for record in mine]}
        for text in MEASURED:
            if text in mine[0]:
                columns[f"{text}_bits_per_byte"] = [r[text]["bits_per_byte"] for r in mine]
                if text != "test":
                    columns[f"forgotten_{text}"] = [lost(record, text) for record in mine]
        for key in ("train_seconds", "examples_per_second", "peak_memory_bytes"):
            columns[key] = [record[key] for record in mine]
        found[way] = {
            "method": mine[0]["method"],
            "rank": mine[0]["rank"],
            "runs": len(mine),
            "learning_rate": mine[0]["learning_rate"],
            "trainable_parameters": mine[0]["trainable_parameters"],
            "saved_bytes": mine[0]["saved_bytes"],
            **means_and_stds(columns),
        }
    return found


def behind_full(bits: dict[str, list[np.ndarray]], n_bytes: Sequence[int]) -> dict[str, dict]:
    """How many more bits a byte than full fine-tuning each way needs, and how sure that is.

    A message that is hard is hard for both, so differences are taken message by message. The 95 %
    interval is a bootstrap's (Efron 1979) over the test documents; seeds of a split are averaged
    before, so it does not hold what other seeds would change.

    Args:
        bits: {way: the bits of each test document, an array a run, (documents,)}; several splits'
            documents one after the other.
        n_bytes: of each document.

    Returns:
        {"lora_8 - full": `bits_per_byte_mean`, `_low`, `_high`, and `share`, of full's bits}
    """
    if "full" not in bits:
        return {}
    sizes = np.asarray(n_bytes, dtype=float)
    drawn = np.random.default_rng(0).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    full, found = np.mean(bits["full"], axis=0), {}
    for way, runs in bits.items():
        if way == "full":
            continue
        more = np.mean(runs, axis=0) - full
        low, high = np.percentile(more[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
        found[f"{way} - full"] = {
            "bits_per_byte_mean": float(more.sum() / sizes.sum()),
            "bits_per_byte_low": float(low),
            "bits_per_byte_high": float(high),
            "share": float(more.sum() / full.sum()),
        }
    return found


def voice_table(results: dict) -> str:
    """The comparison as text for a terminal, 100 columns wide."""
    texts = [text for text in MEASURED if text in results["baselines"]["base"]]
    rows = [("bits per byte of", *(MEASURED[text] for text in texts))]
    rows[0] += ("trainable", "saved", "peak memory", "time", "rate")
    for way, summary in results["summary"].items():
        rows.append(
            (
                way_label(way),
                *(_spread(summary, f"{text}_bits_per_byte") for text in texts),
                f"{summary['trainable_parameters']:,}",
                megabytes(summary["saved_bytes"]),
                megabytes(summary["peak_memory_bytes_mean"]),
                f"{summary['train_seconds_mean']:.0f} s",
                f"{summary['learning_rate']:g}",
            )
        )
    for name, measured in results["baselines"].items():
        cells = (f"{measured[text]['bits_per_byte']:.3f}" for text in texts)
        rows.append((BASELINES[name], *cells, "", "", "", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.append("")
    for name, found in results["paired"].items():
        mean, low, high = (found[f"bits_per_byte_{what}"] for what in ("mean", "low", "high"))
        lines.append(
            f"{way_label(name)}: {mean:+.3f} bits per byte ({low:+.3f} to {high:+.3f}), "
            f"{found['share']:+.1%}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _spread(summary: dict, key: str) -> str:
    deviation = summary[f"{key}_std"]
    return f"{summary[f'{key}_mean']:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
