"""What voices remember, and the classifier that two of them make: the studies, on toy voices."""

import json

import pytest
from small import write_base, write_messages

from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.inference.memorised import repeated
from llm.studies import free_classifier as studies
from llm.studies.free_classifier import by_voices, free_classifier, voice_settings
from llm.studies.memorised import repeats
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings

MINI = mini_tokenizer()
TRAIN = [f"a sentence of {word} that was learned by heart and by nobody else" for word in "abcdef"]
UNSEEN = ["something that was never read, and is as long as that", "call 0800 123 456 to stop"]


def test_what_was_learned_is_told_from_what_everybody_writes():
    written = MINI.encode_batch([TRAIN[1], TRAIN[4] + " or is it", "nothing", "ring 0800123456"])
    found = repeats(MINI, written, TRAIN, UNSEEN)
    assert found["train"]["documents_repeating"] == 2 and found["train"]["share"] == 0.5
    assert found["unseen"]["share"] == 0
    parts = [repeated(written, MINI.encode_batch(TRAIN[at : at + 2]))["share"] for at in (0, 2, 4)]
    assert found["train_part_share"] == pytest.approx(sum(parts) / 3)
    assert (found["train_numbers"], found["unseen_numbers"]) == (0, 1)


@pytest.fixture
def toy(tmp_path):
    base, tsv = write_base(tmp_path / "base"), write_messages(tmp_path / "messages.tsv")
    return FinetuneSettings(model=str(base), data=str(tsv), epochs=1, batch_size=8)


def test_a_voice_reads_its_messages_and_no_others(toy, tmp_path):
    texts = [m.text for m in load_messages(toy.data).messages if m.label][:10]
    settings = voice_settings(toy, texts, tmp_path / "spam.txt")
    assert settings.epochs * 2 >= studies.STEPS  # ten messages are two steps
    record = finetune(settings, tmp_path / "voice", device="cpu")
    assert (record.data["train"], record.data["validation"], record.data["test"]) == (10, 0, 0)
    assert "test" not in record.results


def test_two_voices_tell_toy_messages_apart(toy, tmp_path, monkeypatch):
    """Their words differ, so voices that have learned anything at all know which is which."""

    def here(settings, folder, resume, device, quiet):
        return json.loads(json.dumps(finetune(settings, folder, resume, "cpu").to_dict()))

    monkeypatch.setattr(studies, "run_in_fresh_process", here)
    out = tmp_path / "free.json"
    found = free_classifier([0], [None], toy, tmp_path / "work", out, "cpu")
    assert found == json.loads(out.read_text())
    ways = {row["way"]: row for row in found["summary"]}
    assert ways["voices"]["f1_mean"] > 0.9 and ways["voices"]["splits"] == 1
    assert {"lora", "tfidf_logistic_regression"} < set(ways)
    parts = split(load_messages(toy.data), 0)
    again = by_voices(parts, toy, tmp_path / "work" / "all-split0", "cpu")  # nothing is made anew
    assert again["f1"] == ways["voices"]["f1_mean"]
