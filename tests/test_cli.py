"""The command line: what it prints, and how it ends; in this process where that is enough."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from forked import studies_worker
from small import write_base, write_messages

from llm.cli import using
from llm.cli.parser import build_parser, main
from llm.lora.settings import LoRASettings
from llm.training.classification import ClassificationTask
from llm.training.settings import RECIPES, FinetuneSettings, PretrainSettings
from llm.utils.errors import InputError
from llm.utils.files import open_tensors
from llm.utils.paths import BUNDLED, ROOT
from llm.utils.program import remedy

COMMANDS = [
    "compare",
    "finetune",
    "evaluate",
    "predict",
    "merge",
    "export",
    "import",
    "info",
    "download",
    "pretrain",
    "generate",
    "bits",
]


class Done(NamedTuple):
    """How a command ended, named as `subprocess` does."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments, text=""):
    """`python -m llm ARGUMENTS`, in this process."""
    stdin, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main([str(argument) for argument in arguments])
            except SystemExit as ended:  # argparse
                status = ended.code
    finally:
        sys.stdin = stdin
    return Done(status, out.getvalue(), err.getvalue())


def run_anew(*arguments, folder=None, **environment):
    """The same in a process of its own, in a session of its own, as a terminal starts it."""
    return subprocess.run(
        [sys.executable, "-m", "llm", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
        start_new_session=True,
    )


@pytest.fixture
def forked_workers(monkeypatch):
    """Runs of a comparison are children that need not wait for PyTorch."""
    monkeypatch.setattr("llm.studies.worker.fresh_process", studies_worker)


def refused(done, *words):
    """One line on stderr that begins with error:, status 2, nothing on stdout."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    for word in words:
        assert word in done.stderr


@pytest.fixture(scope="module")
def tsv(tmp_path_factory) -> Path:
    """Made-up messages that any model can learn, in the format of the collection."""
    lines = []
    for number in range(60):
        words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
        name = f"{words[number % 6]} {words[number // 6 % 6]} {'abcdefghij'[number // 36]}"
        lines.append(f"ham\tsee you at {name} tonight")
        if number % 3 == 0:
            lines.append(f"spam\tWIN a free {name} prize, call now!")
    path = tmp_path_factory.mktemp("data") / "messages.tsv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tsv, tmp_path_factory) -> Path:
    """A LoRA run on them."""
    out = tmp_path_factory.mktemp("runs") / "spam"
    done = run(
        "finetune",
        "--weights",
        "random",
        "--data",
        tsv,
        "--epochs",
        1,
        "--rank",
        2,
        "--alpha",
        4,
        "--targets",
        "W_query,W_value",
        "--out",
        out,
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["record"] == json.loads((out / "run.json").read_text())["record"]
    return out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command):
    parser = build_parser()
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([command, "--help"])
    assert ended.value.code == 0
    actions = parser._subparsers._group_actions[0].choices[command]
    assert actions.epilog.startswith(f"example: python -m llm {command}")
    options = {text for action in actions._actions for text in action.option_strings}
    assert {"--device", "--seed", "--quiet", "--json", "--help"} <= options


def options_of(command):
    choices = build_parser()._subparsers._group_actions[0].choices
    return choices[command], [a for a in choices[command]._actions if a.dest != "help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is_and_its_default(command):
    parser, actions = options_of(command)
    either_or = [a for group in parser._mutually_exclusive_groups for a in group._group_actions]
    for action in actions:
        assert action.help, action.dest
        shown = parser._get_formatter()._expand_help(action)
        if not action.option_strings:
            continue
        if action.required or action in either_or:
            assert shown.endswith("required)")
        elif action.nargs == 0 and action.default is not None:
            assert shown.endswith("(default: off)")
        elif action.default in (None, [], {}) or action.dest in ("targets", "schedule_steps"):
            assert "; default: " in shown, action.dest  # in words
        else:
            assert shown.endswith(f"(default: {action.default})")


@pytest.mark.parametrize(
    ("command", "settings"),
    [("compare", FinetuneSettings()), ("finetune", FinetuneSettings())]
    + [("compare", LoRASettings()), ("finetune", LoRASettings()), ("info", LoRASettings())]
    + [("pretrain", PretrainSettings())],
)
def test_the_defaults_are_those_of_the_settings(command, settings):
    _, actions = options_of(command)
    defaults = {action.dest: action.default for action in actions}
    of_recipe = RECIPES["plain"] if command in ("compare", "finetune") else {}
    # The recipe and the task have a say in these, so they are None until both are known.
    later = {"lr", *of_recipe, *({"batch_size"} if of_recipe else ())}
    named = {name for name in vars(settings) if name in defaults} - later
    assert len(named) >= 5
    assert {defaults[name] for name in later if name in defaults and of_recipe} <= {None}
    assert {name: defaults[name] for name in named} == {n: getattr(settings, n) for n in named}


def test_an_error_names_the_options_that_this_command_has():
    error = InputError("bad", settings=("lr", "precision=fp32", "dropout"), command="download sms")
    typed = "python -m llm download sms, --lr, --precision fp32, --lora-dropout"
    assert remedy(error, options_of("finetune")[0]) == f" ({typed})"
    assert remedy(error, options_of("predict")[0]) == " (python -m llm download sms)"
    assert remedy(InputError("bad", settings=("lr",)), options_of("predict")[0]) == ""
    assert remedy(InputError("bad", settings=("lr",)), None) == ""


def test_the_command_line_starts_as_a_program_anywhere(tmp_path):
    done = run_anew("info", "--model", "gpt5", folder=tmp_path, PYTHONPATH=str(ROOT))
    refused(done, "gpt5", "gpt2-xl")


def test_help_imports_no_torch():
    code = (
        "import sys\nfrom llm.cli.parser import main\n"
        "try: main(['compare', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sklearn', 'tiktoken'} & set(sys.modules)\n"
        "print('imported:', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("imported: []\n"), done.stdout + done.stderr


def test_predict_imports_no_sympy():
    """PyTorch imports it for some operations on meta tensors; it takes longer than our own work."""
    code = (
        "import sys\nfrom llm.cli.parser import main\n"
        f"main(['predict', '--from', {str(BUNDLED['spam'])!r}, 'hello'])\n"
        "print('sympy' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("False True\n"), done.stdout + done.stderr


def test_a_lora_folder_is_kilobytes_and_holds_no_base(folder):
    about = json.loads((folder / "run.json").read_text())
    record = about["record"]
    files = set(os.listdir(folder)) - {".lock"}
    assert files == {"adapter.safetensors", "history.json", "run.json"}
    assert record["saved_bytes"] == (folder / "adapter.safetensors").stat().st_size
    assert record["saved_bytes"] < 4 * record["trainable_parameters"] + 10_000
    assert record["base_unchanged"] is True
    assert record["memory_bytes"]["gradients"] == 4 * record["trainable_parameters"]


def test_evaluate_prints_the_metric_names_of_the_results(folder, tsv):
    done = run("evaluate", "--from", folder, "--data", tsv, "--json")
    names = {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "roc_auc", "messages"}
    metrics = json.loads(done.stdout)
    assert names <= set(metrics)
    assert metrics["messages"] == 80


@pytest.mark.parametrize("as_json", [True, False])
def test_predict_holds_a_few_messages_of_a_long_file_at_a_time(folder, as_json, monkeypatch):
    monkeypatch.setattr(using, "MESSAGES_AT_ONCE", 2)

    class Endless(io.BytesIO):
        """Three messages, then a file that cannot be read on."""

        def __iter__(self):
            yield from (b"one\n", b"two\r\n", b" \n", b"three\n")
            raise OSError("the disk is gone")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Endless()))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["predict", "--from", str(folder), *["--json"] * as_json])
    assert status == 2
    assert err.getvalue() == "error: the disk is gone\n"
    texts = ["one", "two"]  # were answered before the third was read
    alone = run("predict", "--from", folder, *["--json"] * as_json, *texts).stdout
    assert out.getvalue() == alone.removesuffix("\n]\n" if as_json else "")


def test_predict_answers_each_message_in_order(folder):
    texts = ["WIN a free prize", "see you tonight", "emoji 🎉 and \t tab"]
    answers = json.loads(run("predict", "--from", folder, "--json", *texts).stdout)
    assert [answer["message"] for answer in answers] == texts
    assert all(answer["label"] in ("ham", "spam") for answer in answers)
    assert all(0.5 <= answer["probability"] <= 1 for answer in answers)
    lines = run("predict", "--from", folder, text="\n".join(texts)).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [answer["label"] for answer in answers]


def test_a_merged_folder_answers_alike_and_has_no_lora(folder, tmp_path):
    assert run("merge", "--from", folder, "--out", tmp_path / "m").returncode == 0
    before = json.loads(run("predict", "--from", folder, "--json", "call now").stdout)
    after = json.loads(run("predict", "--from", tmp_path / "m", "--json", "call now").stdout)
    assert after[0]["probability"] == pytest.approx(before[0]["probability"], abs=1e-5)
    from llm.utils.files import read_tensors

    assert not [n for n in read_tensors(tmp_path / "m" / "model.safetensors")[0] if "lora" in n]
    refused(run("merge", "--from", tmp_path / "m", "--out", tmp_path / "n"), "no LoRA layers")


def test_the_same_command_in_another_process_gives_the_same_weights(folder, tsv, tmp_path):
    done = run_anew(
        "finetune",
        "--weights",
        "random",
        "--data",
        tsv,
        "--epochs",
        1,
        "--rank",
        2,
        "--alpha",
        4,
        "--targets",
        "W_query,W_value",
        "--out",
        tmp_path / "again",
    )
    assert done.returncode == 0, done.stderr
    one = (folder / "adapter.safetensors").read_bytes()
    assert (tmp_path / "again" / "adapter.safetensors").read_bytes() == one


def test_a_folder_that_holds_something_is_not_written_over(folder, tmp_path, tsv):
    base = write_base(tmp_path / "base")
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("dear")
    tune = ("finetune", "--model", base, "--data", tsv, "--epochs", 1, "--rank", 2)
    for arguments in (
        ("merge", "--from", folder),
        ("export", "--model", base, "--format", "transformers"),
        ("import", "--from", tmp_path),
        ("pretrain", "--corpus", tsv),
        tune,
    ):
        said = ["holds mine already", "--overwrite)"]
        said += ["--resume"] if arguments[0] in ("finetune", "pretrain") else []
        refused(run(*arguments, "--out", full), *said)
        assert os.listdir(full) == ["mine"] and (full / "mine").read_text() == "dear"
    assert run("merge", "--from", folder, "--out", full, "--overwrite").returncode == 0
    assert {"mine", "run.json"} < set(os.listdir(full))
    # What another command refuses in better words, and what a failed start left behind.
    refused(run("merge", "--from", folder, "--out", folder), "is what is to be merged")
    fresh = tmp_path / "fresh"
    refused(run(*tune, "--task", "poetry", "--out", fresh), "poetry")
    first = run(*tune, "--out", fresh, "--json")
    assert first.returncode == 0, first.stderr
    refused(run(*tune, "--out", fresh), "holds adapter.safetensors already")
    assert run(*tune, "--out", fresh, "--json", "--resume").stdout == first.stdout  # it is done


def test_an_empty_message_is_refused_and_a_blank_line_passed_over(folder):
    for empty in ("", " \n\t", "\u2003"):
        refused(run("predict", "--from", folder, "hello", empty), "message 2 is empty")
    refused(run("predict", "--from", folder, text="\n \n"), "no messages")
    done = run("predict", "--from", folder, text="hello\n\n \nthere\n")
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["hello", "there"]


def test_info_of_a_folder_is_that_of_its_run(folder, tmp_path):
    record = json.loads((folder / "run.json").read_text())
    answer = json.loads(run("info", "--from", folder, "--json").stdout)
    assert (answer["task"], answer["model"], answer["rank"]) == ("spam", "mini", 2)
    assert answer["trainable_parameters"] == record["record"]["trainable_parameters"]
    counted = answer["base_parameters"] + answer["added_parameters"]
    assert counted == record["record"]["total_parameters"]
    kinds = answer["memory_bytes"]
    assert kinds == {kind: record["record"]["memory_bytes"][kind] for kind in kinds}
    assert answer["stored_bytes"] == (folder / "adapter.safetensors").stat().st_size
    lines = run("info", "--from", folder).stdout.splitlines()
    assert lines[0] == f"{folder}: task spam, lora, rank 2, on the base mini"
    assert "adapter.safetensors" in lines[-1]
    refused(run("info", "--from", folder, "--rank", 4), "names that itself (--rank)")
    refused(run("info", "--from", tmp_path), "no fine-tuned folder")


def test_info_counts_without_allocating():
    answer = json.loads(run("info", "--model", "gpt2", "--rank", 16, "--json").stdout)
    assert answer["base_parameters"] == 124_441_346
    assert answer["trainable_parameters"] == 2_655_746
    done = run("info", "--model", "gpt2", "--rank", 16, "--targets", "all", "--json")
    answer = json.loads(done.stdout)
    assert answer["added_parameters"] == answer["trainable_parameters"] == 2_666_528


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["fly"], ["fly"]),
        (["info", "--model", "gpt5"], ["gpt5", "gpt2-xl"]),
        (["info", "--targets", "W_querry"], ["W_querry", "W_query"]),
        (["info", "--rank", "0"], ["rank", "at least 1"]),
        (["info", "--rank", "x"], ["rank"]),
        (["finetune"], ["--out"]),
        (["finetune", "--method", "magic", "--out", "x"], ["magic", "last_block"]),
        (["finetune", "--data", "nowhere.tsv", "--out", "x"], ["nowhere.tsv", "(--data)"]),
        (["finetune", "--lr", "-1", "--out", "x", "--weights", "random"], ["learning rate"]),
        (["finetune", "--task", "poetry", "--out", "x"], ["poetry", "spam"]),
        (["compare", "--methods", "", "--out", "x"], ["method"]),
        (["compare", "--methods", "lora,magic", "--out", "x"], ["magic"]),
        (["evaluate", "--from", "nowhere", "--data", "x.tsv"], ["nowhere"]),
        (["predict", "--from", ".", "hello"], ["no fine-tuned folder"]),
        (["merge", "--from", "x", "--out", "x"], ["another folder (--out)"]),
        (["download", "gpt9"], ["gpt9"]),
        (["finetune", "--device", "cuda", "--out", "x"], ["cuda", "(--device cpu)"]),
        (["finetune", "--data", "full", "--out", "x"], ["(python -m llm download sms)"]),
        (["export", "--model", "mini", "--format", "peft", "--out", "x"], ["(--from)"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments), *words)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    assert left == []


def test_bad_files_name_file_and_line(tmp_path):
    bad = tmp_path / "bad.tsv"
    bad.write_text("ham\thello there\nspam without a tab\n")
    refused(run("finetune", "--data", bad, "--out", tmp_path / "o"), "bad.tsv", "line 2")


def test_ctrl_c_ends_with_130_and_resume_ends_like_the_unbroken_run(tmp_path, monkeypatch):
    base, tsv = write_base(tmp_path / "base"), write_messages(tmp_path / "messages.tsv")
    arguments = ["finetune", "--model", base, "--data", tsv, "--epochs", 3, "--batch-size", 8]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(*arguments, "--out", whole).returncode == 0
    batch = ClassificationTask.batch

    def pressing(task, step, part=0, parts=1):
        if step == 7:  # in the second epoch
            os.kill(os.getpid(), signal.SIGINT)
        return batch(task, step, part, parts)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "batch", pressing)
        done = run(*arguments, "--out", broken)
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in done.stderr
    assert not (broken / "run.json").exists()
    with open_tensors(broken / "checkpoint.safetensors") as reader:
        assert json.loads(reader.metadata()["run"])["step"] == 8  # the step was finished, and kept
    assert run(*arguments, "--out", broken, "--resume").returncode == 0
    name = "adapter.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()


# Python imports this before it does anything else. In a comparison's worker it presses Ctrl-C as a
# terminal does, for every process of the session, while the first checkpoint is being written.
PRESS_CTRL_C = """
import os, signal, sys

def hook(event, details):
    global pressed
    if event == "os.rename" and str(details[1]).endswith("checkpoint.safetensors") and not pressed:
        pressed = True
        os.killpg(os.getpgrp(), signal.SIGINT)

pressed = False
if "llm.studies.worker" in sys.orig_argv:
    sys.addaudithook(hook)
"""


def test_ctrl_c_ends_a_comparison_and_its_worker_and_resume_goes_on(tmp_path, monkeypatch):
    base, tsv = write_base(tmp_path / "base"), write_messages(tmp_path / "messages.tsv")
    arguments = ["compare", "--model", base, "--data", tsv, "--epochs", 3, "--batch-size", 8]
    arguments += ["--methods", "lora", "--out", tmp_path / "out", "--json"]
    (tmp_path / "sitecustomize.py").write_text(PRESS_CTRL_C)
    done = run_anew(*arguments, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in done.stderr
    kept = tmp_path / "out" / "runs" / "lora-seed0"
    assert not (kept / "run.json").exists()
    with open_tensors(kept / "checkpoint.safetensors") as reader:
        history = json.loads(reader.metadata()["run"])["history"]
    assert history["curve"]
    monkeypatch.setattr("llm.studies.worker.fresh_process", studies_worker)
    done = run(*arguments, "--resume")
    assert done.returncode == 0, done.stderr
    curve = json.loads((kept / "history.json").read_text())["curve"]
    assert curve[: len(history["curve"])] == history["curve"]
    assert len(curve) > len(history["curve"])


def test_what_a_comparisons_worker_refuses_is_one_line(tsv, tmp_path, forked_workers):
    arguments = ["compare", "--weights", "random", "--data", tsv, "--quiet"]
    arguments += ["--methods", "lora", "--out", tmp_path / "out"]
    done = run(*arguments, "--targets", "W_querry")
    refused(done, "no Linear layer is called W_querry", "W_query")


def test_an_adapter_on_other_weights_is_refused(folder, tmp_path):
    for name in ("adapter.safetensors", "run.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    about = json.loads((tmp_path / "run.json").read_text())
    about["base"]["seed"] = 1
    (tmp_path / "run.json").write_text(json.dumps(about))
    refused(run("predict", "--from", tmp_path, "hello"), "other weights")
    about["base"]["seed"] = 0
    about["lora"]["rank"] = 3
    (tmp_path / "run.json").write_text(json.dumps(about))
    refused(run("predict", "--from", tmp_path, "hello"), "shape", "rank")


def test_compare_writes_the_result_file_of_the_design(tsv, tmp_path, forked_workers):
    arguments = ["--model", write_base(tmp_path / "base"), "--data", tsv, "--epochs", 1]
    arguments += ["--seeds", 2, "--rank", 2, "--methods", "head,lora", "--out", tmp_path / "c"]
    done = run("compare", *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "c" / "results.json").read_text())
    assert [(r["method"], r["seed"]) for r in results["runs"]] == [
        ("head", 0),
        ("lora", 0),
        ("head", 1),
        ("lora", 1),
    ]
    for run_ in results["runs"]:
        assert set(run_["memory_bytes"]) == {"weights", "gradients", "optimizer", "activations"}
        assert run_["peak_memory_bytes"] > 0
        assert run_["examples_per_second"] > 0
    for name in ("majority", "tfidf_logistic_regression"):
        assert "f1" in results["baselines"][name]
    accuracies = [r["test"]["accuracy"] for r in results["runs"] if r["method"] == "lora"]
    assert results["summary"]["lora"]["test_accuracy_mean"] == pytest.approx(sum(accuracies) / 2)
    data = results["data"]
    assert data["train"] + data["validation"] + data["test"] == data["messages"]
    for figure in ("overview", "parameters", "memory", "scores", "time", "loss"):
        assert (tmp_path / "c" / f"{figure}.png").stat().st_size > 5000
    method, trained = done.stdout.splitlines()[3].split()[:2]
    assert method == "lora"
    assert trained == f"{results['summary']['lora']['trainable_parameters']:,}"


def test_predict_reads_a_message_as_in_the_training_of_its_task():
    texts = ("What time will you come home?", "What time will you come home")
    asked = run("predict", "--from", BUNDLED["question"], "--json", *texts)
    one, other = json.loads(asked.stdout)
    assert one["label"] == other["label"] == "question"
    assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    assert one["message"] == texts[0]
