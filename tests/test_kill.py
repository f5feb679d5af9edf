"""Killed at any moment and resumed, a run ends with the weights of an unbroken one.

The short form kills a few times. The long form kills at every moment at which the folder can be in
another state, once each and in random sequences, and by the clock as well, some 300 kills:

    LLM_KILL_TESTS=long python -m pytest -n 2 -s tests/test_kill.py
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from killing import run, start, wait
from small import write_base, write_messages

from llm.formats.finetuned import load_finetuned
from llm.training.checkpoint import CHECKPOINT
from llm.utils.files import UNFINISHED, open_tensors, read_json, read_tensors

long_form = pytest.mark.skipif(
    os.environ.get("LLM_KILL_TESTS") != "long", reason="set LLM_KILL_TESTS=long to run it"
)
COMMANDS = ("finetune", "pretrain")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, list]:
    """The arguments of a short run of each command, without --out."""
    where = tmp_path_factory.mktemp("inputs")
    base, tsv = write_base(where / "base"), write_messages(where / "messages.tsv")
    corpus = where / "corpus.txt"
    story = "Once upon a time there were {} kings, and each had {} lands. " * 4
    stories = [story.format(*(n * 7919 % 1000 + i for i in range(8))) for n in range(200)]
    corpus.write_text("\n<|endoftext|>\n".join(stories))
    common = ["--model", base, "--device", "cpu", "--quiet", "--batch-size", 8]
    return {
        "finetune": ["finetune", *common, "--data", tsv, "--rank", 2, "--epochs", 3],
        "pretrain": ["pretrain", *common, "--corpus", corpus, "--steps", 6, "--evaluate-every", 2],
    }


class Unbroken:
    """A run that nobody disturbed: what it left, and how often it touched its folder."""

    def __init__(self, arguments, folder):
        done = run([*arguments, "--out", folder], folder)
        assert done.status == 0, done.stderr
        self.arguments, self.events, self.result = arguments, done.events, result(folder)

    def command(self, folder, resume=True):
        return [*self.arguments, "--out", folder, *(["--resume"] if resume else [])]


@pytest.fixture(scope="module")
def unbroken(inputs, tmp_path_factory) -> dict[str, Unbroken]:
    folder = tmp_path_factory.mktemp("unbroken")
    return {name: Unbroken(inputs[name], folder / name) for name in COMMANDS}


def result(folder: Path) -> dict:
    """All that a folder holds but for times: file -> content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.endswith((".lock", "curve.png", CHECKPOINT)):
            continue
        if path.suffix == ".safetensors":
            tensors, metadata = read_tensors(path)
            found[name] = {n: t.numpy().tobytes() for n, t in tensors.items()} | metadata
        elif path.suffix == ".json":
            found[name] = without_times(read_json(path))
        else:
            found[name] = path.read_bytes()
    return found


def without_times(content):
    """JSON without what is different in every run of the same command."""
    if not isinstance(content, dict):
        return content
    times = {"train_seconds", "examples_per_second", "tokens_per_second", "peak_memory_bytes"}
    return {
        key: without_times(value)
        for key, value in content.items()
        if key not in times and content.get(key) is not None and key != "model.safetensors"
    }


def check_not_corrupt(folder: Path) -> None:
    """What has its final name is whole, and a folder that says it is complete can be loaded."""
    for path in folder.rglob("*"):
        if path.name.endswith((UNFINISHED, ".lock")) or path.is_dir():
            continue
        if path.suffix == ".safetensors":
            with open_tensors(path):
                pass
        if path.suffix == ".json":
            read_json(path)
    if (folder / "run.json").exists():
        load_finetuned(folder)


def finish(whole: Unbroken, folder: Path) -> None:
    """Resume to the end; the folder is then as the unbroken one, leftovers gone."""
    done = run(whole.command(folder), folder)
    assert done.status == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert result(folder) == whole.result
    assert not list(folder.rglob(f"*{UNFINISHED}"))


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_three_times_a_run_ends_like_the_unbroken_one(unbroken, command, tmp_path):
    whole, dice = unbroken[command], random.Random(command)
    for number in range(3):
        at = dice.randrange(1, whole.events // 2)
        done = run(whole.command(tmp_path / "run", resume=number > 0), tmp_path / "run", at)
        assert done.status == -signal.SIGKILL
        check_not_corrupt(tmp_path / "run")
    finish(whole, tmp_path / "run")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_leaves_the_checkpoint_and_the_run_goes_on_later(unbroken, command, tmp_path):
    """A limit on the size of a file stands in for the disk."""
    whole, folder = unbroken[command], tmp_path / "run"
    assert run(whole.command(folder), folder, at=CHECKPOINT).status == -signal.SIGKILL
    before = (folder / CHECKPOINT).read_bytes()
    full = run(whole.command(folder), folder, limit=1024)
    assert full.status == 2, full.stderr
    assert full.stderr.startswith("error: cannot write")
    assert full.stderr.count("\n") == 1, full.stderr
    assert (folder / CHECKPOINT).read_bytes() == before
    finish(whole, folder)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB, where this machine lets us make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        made = False
    if not made:
        pytest.skip("only root may mount a disk, and not everywhere")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(unbroken, small_disk):
    """A checkpoint of pretraining holds the whole model: 1.7 MB do not fit, the corpus does."""
    done = run(unbroken["pretrain"].command(small_disk / "run"), small_disk / "run")
    assert done.status == 2, done.stderr
    assert done.stderr.startswith("error: cannot write")
    assert done.stderr.count("\n") == 1, done.stderr
    assert CHECKPOINT not in os.listdir(small_disk / "run")
    assert not list(small_disk.rglob(f"*{UNFINISHED}"))


@pytest.mark.parametrize("command", COMMANDS)
def test_folders_that_cannot_be_written_are_refused(inputs, command, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    (tmp_path / "taken" / CHECKPOINT / "x").mkdir(parents=True)
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "x",
        Path("/proc/run"),
        tmp_path / "locked",
        tmp_path / "taken",
    ):
        done = run([*inputs[command], "--out", folder, "--overwrite"], tmp_path)
        assert done.status == 2, (folder, done.stderr)
        assert done.stderr.startswith("error: cannot")
        assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_on_a_folder_is_refused_and_the_first_unharmed(unbroken, command, tmp_path):
    whole, folder = unbroken[command], tmp_path / "run"
    first, pipe = start(
        whole.command(folder, resume=False), folder, whole.events // 2, signal.SIGSTOP
    )
    wait_until_stopped(first.pid)
    second = run(whole.command(folder), folder)
    assert second.status == 2
    assert second.stderr.startswith(f"error: another run is writing into {folder}")
    os.kill(first.pid, signal.SIGCONT)
    assert wait(first, pipe).status == 0
    assert result(folder) == whole.result


def wait_until_stopped(pid: int) -> None:
    process = psutil.Process(pid)
    while (status := process.status()) != psutil.STATUS_STOPPED:
        assert status != psutil.STATUS_ZOMBIE, "it ended without having been stopped"
        os.sched_yield()


@long_form
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_every_moment_once(unbroken, command, tmp_path):
    """At each touch of the folder, and then resumed to the end."""
    whole = unbroken[command]
    for at in range(1, whole.events + 1):
        folder = tmp_path / f"at{at}"
        done = run(whole.command(folder, resume=False), folder, at)
        assert done.status == -signal.SIGKILL, at
        check_not_corrupt(folder)
        finish(whole, folder)
        shutil.rmtree(folder)
    print(f"{command}: {whole.events} kills, each resumed to the same weights")


@long_form
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("seed", range(10))
def test_killed_again_and_again(unbroken, command, seed, tmp_path):
    """Five kills in a row, each in what the one before left."""
    whole, dice = unbroken[command], random.Random(f"{command} {seed}")
    for number in range(5):
        at = dice.randrange(1, whole.events)
        run(whole.command(tmp_path / "run", resume=number > 0), tmp_path / "run", at)
        check_not_corrupt(tmp_path / "run")
    finish(whole, tmp_path / "run")


@long_form
@pytest.mark.parametrize("command", COMMANDS)
def test_killed_by_the_clock(unbroken, command, tmp_path):
    """The program as a user starts it, killed after a random time: 15 times."""
    whole, dice = unbroken[command], random.Random(command)
    program = [sys.executable, "-m", "llm"]

    def begin(folder, resume):
        return subprocess.Popen(
            [*program, *map(str, whole.command(folder, resume))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    started = time.monotonic()
    assert begin(tmp_path / "timed", False).wait() == 0
    takes = time.monotonic() - started
    kills = round_ = 0
    while kills < 15:
        folder = tmp_path / f"run{round_}"
        round_ += 1
        for number in range(3):
            process = begin(folder, number > 0)
            try:  # the last 60 % of the time: before, PyTorch is being imported
                process.wait(timeout=takes * dice.uniform(0.4, 1))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            _, errors = process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), errors
            if folder.exists():
                check_not_corrupt(folder)
        finish(whole, folder)
    print(f"{command}: {kills} kills by the clock in {round_} runs")
