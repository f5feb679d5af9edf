"""Every chapter as a reader runs it: a process of its own, started from another folder."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from forked import run_script

from llm.lora.inject import BLOCK_TARGETS
from llm.model.config import PRESETS

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted(path.name for path in (ROOT / "chapters").glob("ch*.py"))
# The base that the chapters start from here: the bundled one where it is there.
WEIGHTS = "pretrained" if (ROOT / "data" / "mini" / "model.safetensors").exists() else "random"

MINI = PRESETS["mini"]
WIDTH, BLOCKS = MINI.emb_dim, MINI.n_layers
# Rank 8: A and B of four width x width and two width x 4 width layers a block, and the head.
LORA_TRAINED = BLOCKS * 8 * (4 * 2 + 2 * 5) * WIDTH + 2 * WIDTH + 2

# chapter -> (its options for a quick run, what it must print, its figures)
EXPECTED = {
    "ch01_tokenizing.py": (
        [],
        ["receive·a", "mini, 8,192", "no message can"],
        ["ch01_tokenizing.png"],
    ),
    "ch02_data_sampling.py": (
        [],
        ["copies removed", "packed: no rectangle at all", "answer"],
        ["ch02_data_sampling.png"],
    ),
    "ch03_embeddings.py": (
        ["--weights", WEIGHTS],
        ["largest difference: 0.0e+00", "' Monday'", "tokens apart"],
        ["ch03_embeddings.png"],
    ),
    "ch04_attention.py": (
        ["--weights", WEIGHTS],
        ["at all tokens before the last  0.000e+00", "listens to"],
        ["ch04_attention.png"],
    ),
    "ch05_architecture.py": (
        [],
        ["124,439,808", "1,557,611,200", "(2, 16, 8192)"],
        ["ch05_architecture.png"],
    ),
    "ch06_pretraining.py": (
        ["--weights", WEIGHTS, "--steps", "6"],
        ["xz -9, the compressor", "h.0.attn.c_attn.weight", "I will call you"],
        ["ch06_tiny.png"],
    ),
    "ch07_lora.py": (
        ["--weights", WEIGHTS, "--steps", "3"],
        [
            *("124,441,346", "2,666,528", "2,655,746", "(2.0, 8.0)", "merged already"),
            *("bit for bit: True", "bit for bit equal: True", "directions of update  8"),
        ],
        ["ch07_lora.png"],
    ),
    "ch08_classification.py": (
        ["--weights", WEIGHTS, "--limit", "40", "--epochs", "1", "--rounds", "1"],
        ["last column", f"{LORA_TRAINED:,}", "P(spam)", "rounding"],
        ["ch08_classification.png"],
    ),
    "ch09_comparison.py": (
        ["--weights", WEIGHTS, "--limit", "40", "--epochs", "1"],
        ["TF-IDF, characters too", "gpt2-xl", "P(question)", "bit for bit            True"],
        ["ch09_comparison.png", "ch09_storage.png"],
    ),
    "ch10_beyond_lora.py": (
        ["--weights", WEIGHTS, "--steps", "1"],
        ["4.127", "0.09844", "bits a byte", "QLoRA, nf4", f"{LORA_TRAINED:,}"],
        ["ch10_beyond_lora.png"],
    ),
    "ch11_voices.py": (
        ["--weights", WEIGHTS, "--limit", "16", "--epochs", "1"],
        ["bits a byte", "ham to the bar", "P(spam)", "sum over the tokens"],
        ["ch11_voices.png"],
    ),
}


# Of these the collection as it is; the others would spend their time on measuring with it.
WHOLE = ("ch01_tokenizing.py", "ch02_data_sampling.py")


def few_messages() -> None:
    """Every sixteenth message of the collection stands for all, in this process."""
    from llm.data import messages

    read = messages._read

    def read_few(source):
        name, file = read(source)
        return name, replace(file, messages=file.messages[::16])

    messages._read = read_few


def run(chapter: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    prepare = None if chapter in WHOLE else few_messages
    return run_script(ROOT / "chapters" / chapter, *options, folder=folder, prepare=prepare)


def frozen_weights_stay_bit_for_bit(printed: str) -> None:
    """The table of chapter 7 counts the tensors that changed: none that is frozen, all others."""
    layers, changed = len(BLOCK_TARGETS) * BLOCKS, {}
    for line in printed.split("tensors that changed")[1].split("\n\n")[0].splitlines()[2:]:
        kind, tensors, _, count = line.rsplit(maxsplit=3)
        changed[kind.strip()] = (int(tensors), int(count))
    assert changed == {
        "embeddings and LayerNorms, frozen": (2 + 4 * BLOCKS + 2, 0),
        "W and b, frozen": (2 * layers, 0),
        "A": (layers, layers),
        "B": (layers, layers),
        "head": (2, 2),
    }


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_from_any_folder(chapter, tmp_path):
    options, promised, figures = EXPECTED[chapter]
    done = run(chapter, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for text in (*promised, "Try next:"):
        assert text in done.stdout
    for name in figures:
        png = (tmp_path / "figures" / name).read_bytes()
        assert png.startswith(b"\x89PNG") and len(png) > 5_000
    if chapter == "ch07_lora.py":
        frozen_weights_stay_bit_for_bit(done.stdout)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_help_is_the_lesson(chapter, tmp_path):
    done = run(chapter, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Chapter {int(chapter[2:4])}." in done.stdout
    assert "Source: " in done.stdout and "--seed" in done.stdout


@pytest.mark.parametrize(
    ("chapter", "options", "complaint"),
    [
        ("ch01_tokenizing.py", ["--seed", "minus"], "--seed"),
        ("ch03_embeddings.py", ["--weights", "guessed"], "--weights"),
        ("ch03_embeddings.py", ["--weights", "random", "--words", "Konstantinopel"], "one token"),
        ("ch07_lora.py", ["--steps", "0"], "--steps"),
        ("ch05_architecture.py", ["--out", "taken"], "taken"),
    ],
)
def test_a_bad_option_is_one_line(chapter, options, complaint, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    done = run(chapter, tmp_path, *options)
    assert done.returncode == 2
    assert done.stderr.startswith("error:") and done.stderr.count("\n") == 1
    assert complaint in done.stderr
