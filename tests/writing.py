"""Texts in many scripts, and GPT-2's own vocabulary as tiktoken reads it, for tests."""

from functools import cache
from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

from llm.data.bpe import SPLIT_PATTERN

GPT2 = Path(__file__).parents[2] / "shared" / "gpt2"
needs_gpt2 = pytest.mark.skipif(
    not (GPT2 / "vocab.bpe").exists(), reason=f"GPT-2's vocabulary files are not in {GPT2}"
)
TEXTS = [
    "",
    " ",
    "Hello, world!  Don't they're we'll I'm it's he'd we've",
    "DON'T WE'LL  'tis rock'n'roll",
    "FREE entry 2 win £1,000 cash!!! Txt WIN to 80086 now >>> www.example.com/x?y=1 :-) <3",
    "  leading, trailing  \n\n\t tabs \r\n and\u00a0no-break\u3000ideographic spaces   ",
    "Größe, façade, naïve, İstanbul, ŁÓDŹ, ﬁne",
    "Привет, как дела? Жёлтый 123",
    "Γειά σου Κόσμε, ΌΜΟΡΦΗ",
    "שלום עולם, مرحبا بالعالم ١٢٣٤",
    "नमस्ते दुनिया १२३, สวัสดีชาวโลก, வணக்கம்",
    "你好，世界。猫は猫である。안녕하세요 세계",
    "e\u0301 combining, zero\u200bwidth\u200djoined, \u202eright to left",
    "👍🏽👨‍👩‍👧‍👦 🇩🇪 ❤️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀",
    "\x00\x01\x7f\ufffd\ufeff\uffff",
    "<|endoftext|> is thirteen <|endoftext|><|im_start|>",
    "half \ud83d an emoji \ude00, and both \ud83d\ude00",
    "a" * 200 + " " * 50 + "\n" * 20 + "9" * 30,
]


@cache
def gpt2_ranks(folder: Path) -> tuple[dict[bytes, int], tiktoken.Encoding]:
    """Read by tiktoken, not by us."""
    ranks = data_gym_to_mergeable_bpe_ranks(
        vocab_bpe_file=str(folder / "vocab.bpe"), encoder_json_file=str(folder / "encoder.json")
    )
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=SPLIT_PATTERN,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 50256},
    )
    return ranks, encoding
