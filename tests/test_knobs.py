"""The study of LoRA's knobs: its pool against `finetune`, its search and its sums by hand."""

import json
import math

import pytest
from scipy import stats
from small import write_base, write_messages

from llm.figures.knobs import knob_figures
from llm.lora.settings import LoRASettings
from llm.studies.knob_cells import CELLS, RULES, SPAM, TASKS, WRITING, Cell
from llm.studies.knob_search import MOST_RATES, Key, Plan, Search
from llm.studies.knob_summary import diverged, majority, summarise
from llm.studies.knob_tables import knob_table, rate_table
from llm.studies.knobs import Study, kept
from llm.studies.pool import Answer, Pool, devices_of
from llm.studies.summary import student_interval
from llm.training.device import pick_device
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError


def run_all(runs, workers, device):
    """Make all runs; yields each one's number, from 0, and its end, as they come."""
    waiting = iter(enumerate(runs))
    with Pool(workers, device) as pool:
        while True:
            while pool.idle and (job := next(waiting, None)):
                pool.start(*job)
            if not pool.busy:
                return
            if ended := pool.wait():
                yield ended


@pytest.fixture
def runs(tmp_path):
    """A run of each task, and one that cannot be: its rate sends the loss to infinity."""
    common = {
        "lora": LoRASettings(rank=2, alpha=4),
        "model": str(write_base(tmp_path / "base")),
        "data": str(write_messages(tmp_path / "messages.tsv")),
        "epochs": 1,
        "batch_size": 8,
        "limit": 24,
    }
    return [
        FinetuneSettings(**common),
        FinetuneSettings(task="writing", text=["ham"], **common),
        FinetuneSettings(lr=1e30, **common),
    ]


def test_a_pool_gives_the_numbers_of_finetune(runs, tmp_path):
    answers = dict(run_all([*runs, runs[0]], workers=2, device="cpu"))
    assert sorted(answers) == [0, 1, 2, 3]
    assert "the loss became" in answers[2].not_finite and not answers[2].record
    for number, settings in enumerate(runs[:2]):
        alone = finetune(settings, tmp_path / f"alone-{number}", device="cpu").to_dict()
        ours = answers[number].record
        for part in ("validation", "test"):
            assert ours["record"][part] == alone["record"][part]
        assert ours["weights_sha256"] == alone["weights_sha256"]
    assert answers[3].record["weights_sha256"] == answers[0].record["weights_sha256"]


def test_a_process_that_dies_is_replaced_and_its_run_made_again(runs):
    with Pool(1, "cpu") as pool:
        pool._workers[0].process.kill()
        pool.start("first", runs[0])
        key, answer = pool.wait()
        assert key == "first" and answer.record
        bad = {"settings": {"lora": {"depth": 1}}, "graphs": True}
        pool._workers[0].take("bad", bad)
        key, answer = pool.wait()
        assert key == "bad" and answer.failed and pool.idle == 1


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="unknown device 'cpu:1'"):
        pick_device("cpu:1")
    with pytest.raises(InputError):
        pick_device("cuda:77")
    assert devices_of("cpu") == ["cpu"]


def searched(course, rates=(1.0, 2.0, 4.0), units=3, searched=1):
    """A search over a given course of the validation metric, carried to its end."""
    search = Search(Cell("default", "default"), WRITING, units, searched, list(rates))
    order = []
    while wanted := list(search.wanted()):
        for key in wanted:
            order.append((key.rate, key.unit))
            search.found[key.rate, key.unit] = run_of(course(key.rate))
    return search, order


def run_of(value, test=None):
    finite = math.isfinite(value)
    return {
        "validation": value if finite else None,
        "test": {"bits_per_byte": value if test is None else test} if finite else None,
        "trainable": 7,
        "seconds": 1.0,
        "not_finite": "" if finite else "the loss became nan",
        "failed": "",
    }


@pytest.mark.parametrize(
    ("best", "count"), [(2, 3), (4, 4), (16, 6), (0.5, 5), (2**30, MOST_RATES)]
)
def test_a_grid_grows_until_its_best_rate_is_inside(best, count):
    search, order = searched(lambda rate: abs(math.log2(rate / best)))
    assert len(search.rates) == count
    assert search.at_edge == (best == 2**30)
    chosen = search.best()
    assert chosen == min(best, max(search.rates))
    assert [unit for rate, unit in order if rate == chosen] == [0, 1, 2]
    assert len(order) == count + 2  # the others on the searched unit alone


def test_a_rate_that_ran_away_is_never_chosen():
    search, _ = searched(lambda rate: math.inf if rate > 0.3 else rate)
    assert search.best() < 0.3 and not math.isinf(search.validation(search.best()))


def test_the_first_writing_seeds_of_all_cells_come_before_more_of_any():
    plan, order = Plan([CELLS[0], CELLS[-1]]), []
    while key := plan.next():
        order.append(key)
        plan.take(key, run_of(key.rate))
    assert len(set(order)) == len(order)
    late = [key.task == WRITING and key.unit >= 5 for key in order]
    assert late == sorted(late) and any(late)
    assert {key.unit for key in order if key.task == SPAM} == set(range(10))


def test_values_intervals_and_divergence_by_hand():
    default, _ = searched(lambda rate: 2 + abs(math.log2(rate / 2)))
    other = Search(Cell("rank 64", "rank"), WRITING, 3, 1, [1.0, 2.0, 4.0])
    for rate, value in ((1.0, 2.5), (2.0, 1.5), (4.0, 9.0)):
        other.found[rate, 0] = run_of(value)
    other.found[2.0, 1] = run_of(math.inf)
    other.found[2.0, 2] = run_of(1.0, test=1.25)
    base = {WRITING: [{"bits_per_byte": 3.0}] * 3}
    first, second = summarise([default, other], base)
    assert first["chosen"] == second["chosen"] == 2 and "paired" not in first
    assert first["test"]["bits_per_byte"] == {"mean": 2.0, "std": 0.0}
    assert second["diverged"] == 1 and second["diverged_at_any_rate"] == 2  # inf, and 9 > 3
    values = [1.5, 3.0, 1.25]  # the base's for the one that ran away
    assert second["test"]["bits_per_byte"]["mean"] == pytest.approx(sum(values) / 3, abs=1e-6)
    found = second["paired"]["bits_per_byte"]
    expected = stats.ttest_1samp([value - 2 for value in values], 0).confidence_interval(0.95)
    assert found["ahead"] == 2 and found["pairs"] == 3
    assert found["student_low"] == pytest.approx(expected.low, abs=1e-6)
    assert found["student_high"] == pytest.approx(expected.high, abs=1e-6)
    assert second["validation_lost_at_the_default_rate"] == 0
    assert json.dumps(second)


def test_students_interval_is_scipys():
    left, right = [1.0, 2.0, 4.0, 4.5], [0.5, 2.5, 3.0, 3.0]
    expected = stats.ttest_rel(left, right).confidence_interval(0.95)
    found = student_interval(left, right)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_what_needs_no_training_is_the_line():
    base = majority(0.25)
    assert base["accuracy"] == 0.75 and base["loss"] == pytest.approx(0.562335, abs=1e-6)
    run = {"not_finite": "", "test": {"accuracy": 0.75, "f1": 0.5}}
    assert diverged(SPAM, run, base)
    run["test"]["accuracy"] = 0.76
    assert not diverged(SPAM, run, base)
    exact = {**base, "accuracy": 0.8839285714}  # a run that is read from a file is rounded
    assert diverged(SPAM, {"not_finite": "", "test": {"accuracy": 0.883929}}, exact)


def test_every_cell_has_settings_and_the_rules_meet_at_rank_8():
    for cell in CELLS:
        for task in cell.tasks:
            rates = cell.first_rates(task)
            settings = cell.settings(task, rates[0], *TASKS[task].units[0])
            assert settings.lr == rates[0] and len(rates) == cell.rates
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    scales = {rule: LoRASettings(**settings(8)) for rule, settings in RULES.items()}
    for lora in scales.values():
        scale = lora.alpha / (lora.rank**0.5 if lora.rslora else lora.rank)
        assert scale == pytest.approx(2)


def test_a_file_is_taken_up_where_it_ended(tmp_path):
    study = Study(tmp_path / "knobs.json", quick=True)
    record = {
        "record": {part: {"bits_per_byte": 2.0} for part in ("validation", "test")},
        "data": {},
    }
    key = study.plan.next()
    study.take(key, Answer(record=record))
    cells = summarise(list(study.plan.searches.values()), {WRITING: [{"bits_per_byte": 3.0}] * 2})
    content = {"data": {}, "sessions": [{"runs": 1}], "cells": cells}
    (tmp_path / "knobs.json").write_text(json.dumps(content))
    again = Study(tmp_path / "knobs.json", quick=True)
    again.take_over(tmp_path / "knobs.json")
    assert again.sessions == [{"runs": 1}]
    assert again.plan.searches[key.task, key.cell].found == {
        (key.rate, 0): kept(Answer(record=record), key)
    }
    assert again.plan.next() == Key(key.task, key.cell, key.rate, 1)


def made_up():
    """A study whose numbers are made up: the best rate is the usual one, four times it diverges."""
    cells = [*CELLS[:4], CELLS[-1], Cell("NF4", "quantisation", {"quantize": "nf4"})]
    plan = Plan(cells)
    while key := plan.next():
        away = abs(math.log2(key.rate / (0.0025 if key.task == WRITING else 0.005)))
        worse = away + (key.cell != "default")
        run = run_of(math.inf if away >= 2 else 2.0 + 0.01 * worse + 0.1 * key.unit)
        if run["test"] and key.task == SPAM:
            f1 = 0.95 - 0.01 * worse + 0.001 * key.unit * worse
            run["test"] = {"f1": f1, "loss": 0.03, "accuracy": 0.99, "average_precision": 0.98}
        plan.take(key, run)
    base = {WRITING: [{"bits_per_byte": 3.5}] * 10, SPAM: [majority(0.1)] * 10}
    return {"cells": summarise(list(plan.searches.values()), base)}


def test_tables_and_figures_show_what_was_found(tmp_path):
    results = made_up()
    table = knob_table(results).splitlines()
    assert len({line.count("|") for line in table}) == 1
    (default,) = [line for line in table if line.startswith("| default")]
    assert "| 7 | 0.0025 | 2.450 ± 0.303 |  | 0.005 | 95.0 ± 0.0 |  | 6 of 32 |" in default
    (rank,) = [line for line in table if line.startswith("| rank 64, alpha 16")]
    assert "+0.010 (+0.010 to +0.010)" in rank and "-0.5 (-0.8 to -0.3)" in rank
    by_rank = {line.split()[1]: line for line in rate_table(results).splitlines()[2:]}
    assert by_rank["8"] == "| 8 | 0.0025 | 0.000 | 0.0025 | 0.000 | 0.0025 | 0.000 |"
    assert by_rank["32"] == "| 32 | not measured |  | not measured |  | 0.0025 | 0.000 |"
    for path in knob_figures(results, tmp_path):
        assert path.stat().st_size > 20_000
