"""How far a small test set can mislead, beside scipy's and scikit-learn's answers."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from llm.studies import intervals
from llm.studies.intervals import answered, f1_interval, sampling_spread, share_interval, spreads
from llm.utils.errors import InputError
from llm.utils.files import read_json, write_json
from llm.utils.paths import DATA

README = Path(__file__).resolve().parents[1] / "README.md"
TRUTH = [1] * 20 + [0] * 80


def metrics(found, false):
    said = [1] * found + [0] * (20 - found) + [1] * false + [0] * (80 - false)
    return {
        "precision": precision_score(TRUTH, said, zero_division=0),
        "recall": recall_score(TRUTH, said),
        "accuracy": accuracy_score(TRUTH, said),
        "f1": f1_score(TRUTH, said),
    }


@pytest.mark.parametrize("hits, of", [(0, 7), (5, 5), (3, 11), (98, 104)])
def test_the_interval_of_a_share_is_scipys(hits, of):
    theirs = stats.binomtest(hits, of).proportion_ci(0.95, "wilson")
    assert share_interval(hits, of) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize("hits, of", [(-1, 3), (4, 3), (0, 0)])
def test_what_is_no_share_is_refused(hits, of):
    with pytest.raises(InputError, match="no share"):
        share_interval(hits, of)


def test_the_interval_of_f1_is_that_of_messages_drawn_again():
    truth = [1] * 100 + [0] * 400
    said = np.array([1] * 85 + [0] * 15 + [1] * 10 + [0] * 390)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(4000):  # of each class as many as there are
        again = np.concatenate([rng.integers(0, 100, 100), rng.integers(100, 500, 400)])
        drawn.append(2 * said[again[:100]].sum() / (said[again].sum() + 100))
    assert f1_interval(truth, said) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.006)


def test_the_noise_is_the_spread_over_all_that_can_be_drawn():
    found = sampling_spread([metrics(18, 2), metrics(16, 4)], 20, 80)
    weights = np.outer(
        stats.binom.pmf(range(21), 20, 17 / 20), stats.binom.pmf(range(81), 80, 3 / 80)
    )
    hits, alarms = np.mgrid[:21, :81]
    f1 = 2 * hits / (hits + alarms + 20)
    exact = np.sqrt((weights * f1**2).sum() - (weights * f1).sum() ** 2)
    assert found["noise"] == pytest.approx(exact, rel=0.01)
    assert found["measured"] == pytest.approx(
        np.std([metrics(18, 2)["f1"], metrics(16, 4)["f1"]], ddof=1)
    )
    assert 0 <= found["low"] < found["noise"] < found["high"]


@pytest.mark.parametrize("found, false", [(0, 0), (20, 0), (13, 7), (0, 3)])
def test_the_answers_are_told_from_the_metrics(found, false):
    if found or not false:  # without a hit, precision hides how many alarms were false
        assert answered(metrics(found, false), 20, 80) == (found, false)
    else:
        with pytest.raises(InputError, match="not that of"):
            answered(metrics(found, false), 20, 80)


def test_other_counts_and_single_splits_are_refused():
    with pytest.raises(InputError, match="not that of"):
        answered(metrics(13, 7), 30, 70)
    with pytest.raises(InputError, match="one split"):
        sampling_spread([metrics(13, 7)], 20, 80)
    with pytest.raises(InputError, match="on spam"):
        spreads({"rows": []})


def test_the_readme_says_what_the_recorded_runs_say():
    found = spreads(read_json(DATA / "results.json"))
    points = {key: 100 * value for key, value in found["lora"].items()}
    text = " ".join(README.read_text(encoding="utf-8").split())
    said = re.search(
        r"standard deviation is (\S+) points\. .* scatter by (\S+) points, .* anything from (\S+) "
        r"to (\S+) \(`python -m llm\.studies\.intervals",
        text,
    ).groups()
    assert said == (
        f"{points['measured']:.2f}",
        f"{points['noise']:.2f}",
        f"{points['low']:.1f}",
        f"{points['high']:.1f}",
    )
    # "for every row of it": none scatters more than test sets alone may make it
    assert all(entry["measured"] <= entry["high"] for entry in found.values())


def test_as_a_program(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["intervals", str(DATA / "results.json")])
    assert intervals.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("LoRA ") for line in lines)
    write_json(tmp_path / "other.json", {"rows": []})
    monkeypatch.setattr("sys.argv", ["intervals", str(tmp_path / "other.json")])
    assert intervals.main() == 2
    assert capsys.readouterr().err.startswith("error: these are not the results")
