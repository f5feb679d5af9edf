"""The comparison of voices: its baselines against nltk, its numbers against the runs'."""

import json
import lzma
import math
from itertools import product

import numpy as np
import pytest
from nltk.lm.models import KneserNeyInterpolated
from small import write_base, write_messages
from test_cli import refused, run

from llm.data.documents import load_texts
from llm.formats.finetuned import load_finetuned
from llm.inference.log_probabilities import measure_text_file
from llm.studies.text_baselines import (
    END,
    ORDERS,
    START,
    SYMBOLS,
    kneser_ney_baseline,
    kneser_ney_log_probabilities,
    kneser_ney_model,
    smoothed,
    xz_baseline,
)
from llm.studies.voice_measures import ENGLISH
from llm.studies.voice_summary import behind_full
from llm.studies.voices import Place, Way, search_rate, ways_of
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError

TEXTS = ["call me now", "call you now or never", "never mind", "£5 now", ""]


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_tables_hold_what_nltk_counts_anew_for_each_score(order):
    ours = kneser_ney_model(TEXTS, order, 0.6)
    theirs = KneserNeyInterpolated(order, discount=0.6)
    theirs.counts, theirs.vocab = ours.counts, ours.vocab
    theirs.estimator.counts = ours.counts
    contexts = [tuple(c) for n in range(1, order) for c in ours.counts[n + 1]]
    assert len(contexts) > 15
    for context, word in product(contexts, [*"acnow £", END]):
        expected = theirs.estimator.alpha_gamma(word, context)
        assert ours.estimator.alpha_gamma(word, context) == pytest.approx(expected)
    for word in "acnow":  # of single symbols nltk's keeps nothing back for those it has not seen
        seen, all_of_them = theirs.estimator._continuation_counts(word)
        kinds = sum(theirs.estimator._continuation_counts(chr(n))[0] > 0 for n in range(256)) + 1
        expected = (seen - 0.6 + 0.6 * kinds / SYMBOLS) / all_of_them
        assert ours.estimator.unigram_score(word) == pytest.approx(expected)


@pytest.mark.parametrize("context", [(START, START), ("n", "o"), ("z", "z"), (START, "c")])
def test_probabilities_of_all_symbols_sum_to_one(context):
    model = kneser_ney_model(TEXTS, 3, 0.7)
    symbols = [*map(chr, range(256)), END]
    chances = [model.unmasked_score(symbol, context) for symbol in symbols]
    assert min(chances) > 0 and sum(chances) == pytest.approx(1)


def test_another_order_of_the_same_counts_is_the_model_of_that_order():
    texts, counted = ["call never", "b"], kneser_ney_model(TEXTS, 5, 0.9)
    kneser_ney_log_probabilities(counted, texts)
    for order, discount in ((3, 0.5), (5, 0.7), (2, 0.7)):
        found, fresh = smoothed(counted, order, discount), kneser_ney_model(TEXTS, order, discount)
        for text in texts:
            expected = float(kneser_ney_log_probabilities(fresh, [text]))
            assert float(kneser_ney_log_probabilities(found, [text])) == pytest.approx(expected)


def test_a_text_is_as_likely_as_its_bytes_and_its_end():
    model = kneser_ney_model(TEXTS, 3, 0.7)
    row = [START, START, "n", "\xc2", "\xa3", END]
    steps = [model.unmasked_score(row[i], tuple(row[i - 2 : i])) for i in range(2, 6)]
    found = kneser_ney_log_probabilities(model, ["n£", TEXTS[0]])
    assert float(found[0]) == pytest.approx(sum(map(math.log, steps)))
    found = kneser_ney_baseline(TEXTS[:3], TEXTS[:2], {"test": ["call now"], "english": ["a b"]})
    assert found["test"]["bits_per_byte"] < 4 < found["english"]["bits_per_byte"] < 12
    assert found["order"] in ORDERS


def test_xz_is_charged_for_what_is_new():
    train, unseen = ["a sentence to learn from"] * 3, ["a sentence to learn from", "zebra, quick"]
    found = xz_baseline(train, {"test": unseen})["test"]
    sizes = [
        len(lzma.compress("\n".join(texts).encode(), preset=9 | lzma.PRESET_EXTREME))
        for texts in (train, train + unseen)
    ]
    assert found["bits_per_byte"] == 8 * (sizes[1] - sizes[0]) / 36
    assert (found["documents"], found["bytes"]) == (2, 36)


def test_differences_are_taken_document_by_document():
    full = [np.array([10.0, 20, 30]), np.array([12.0, 20, 30])]
    lora = [np.array([12.0, 22, 33])]
    found = behind_full({"lora_8": lora, "full": full}, [4, 6, 10])
    assert list(found) == ["lora_8 - full"]
    row = found["lora_8 - full"]
    assert row["bits_per_byte_mean"] == pytest.approx(6 / 20)
    assert row["share"] == pytest.approx(6 / 61)
    assert 1 / 4 <= row["bits_per_byte_low"] <= 0.3 <= row["bits_per_byte_high"] <= 1 / 3
    assert behind_full({"lora_8": lora}, [4, 6, 10]) == {}


def test_every_rank_scales_its_update_alike():
    ways = ways_of(["full", "lora", "full"], [2, 64])
    assert [way.name for way in ways] == ["full", "lora_2", "lora_64"]
    settings = FinetuneSettings(task="writing", text=["spam"])
    of_runs = [way.settings(settings, seed=3).lora for way in ways if way.rank]
    assert [(lora.rank, lora.alpha / lora.rank) for lora in of_runs] == [(2, 2), (64, 2)]
    with pytest.raises(InputError, match="no head"):
        ways_of(["head"], [8])
    with pytest.raises(InputError, match="no method"):
        ways_of([], [8])


def test_a_search_goes_on_while_the_best_rate_is_at_an_end(monkeypatch, tmp_path):
    tried = []

    def run(self, settings, name):
        tried.append(settings.lr)
        return {"record": {"validation": {"bits_per_byte": abs(math.log2(settings.lr / 0.04))}}}

    monkeypatch.setattr(Place, "run", run)
    settings = FinetuneSettings(task="writing", text=["spam"])
    found = search_rate(Way("lora", 8), settings, 0.01, Place(tmp_path, False, "cpu", True))
    assert found["chosen"] == 0.04
    assert tried == [0.005, 0.01, 0.02, 0.04, 0.08]
    assert [row["learning_rate"] for row in found["grid"]] == sorted(tried)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of two ways, on a base that knows nothing."""
    folder = tmp_path_factory.mktemp("voices")
    base, tsv = write_base(folder / "base"), write_messages(folder / "messages.tsv")
    common = f"--model {base} --data {tsv} --task writing --epochs 1 --quiet".split()
    options = ["compare", *common, "--text", "spam", "--methods", "lora,full", "--ranks", "2"]
    done = run(*options, "--batch-size", "4", "--lr", "0.01", "--out", folder / "out", "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_results_are_those_of_the_runs(compared):
    folder, results = compared
    assert results == json.loads((folder / "out" / "results.json").read_text())
    assert (folder / "out" / "voices.png").read_bytes().startswith(b"\x89PNG")
    assert [record["way"] for record in results["runs"]] == ["lora_2", "full"]
    texts = load_texts(["ham"], folder / "messages.tsv")
    for record in results["runs"]:
        model, tokenizer, again = load_finetuned(
            folder / "out" / "runs" / f"{record['way']}-seed0-split0"
        )
        measured = again.results["test"]
        assert record["test"]["bits_per_byte"] == pytest.approx(measured["bits_per_byte"])
        english = measure_text_file(model, tokenizer, ENGLISH)
        assert record["english"]["bits_per_byte"] == pytest.approx(english["bits_per_byte"])
        assert record["other"]["documents"] == len(texts.test)
    summary, base = results["summary"]["lora_2"], results["baselines"]["base"]
    for key, text, sign in (("learned", "test", -1), ("forgotten_english", "english", 1)):
        difference = results["runs"][0][text]["bits_per_byte"] - base[text]["bits_per_byte"]
        assert summary[f"{key}_mean"] == pytest.approx(sign * difference)
    assert results["paired"]["lora_2 - full"]["bits_per_byte_mean"] == pytest.approx(
        results["runs"][0]["test"]["bits_per_byte"] - results["runs"][1]["test"]["bits_per_byte"]
    )
    assert set(results["baselines"]) == {"base", "kneser_ney", "xz"}


def test_what_cannot_be_compared_is_one_line(tmp_path):
    out = ("--out", tmp_path / "out")
    refused(run(*["compare", "--ranks", "2,4"], *out), "--ranks")
    refused(run(*["compare", "--search"], *out), "--search")
    writing = ["compare", "--task", "writing", "--text", "spam"]
    refused(run(*writing, "--methods", "head", *out), "no head")
    refused(run(*writing, "--ranks", "2,none", *out), "--ranks")
