"""Signs of spam, masks and disguises, and the count of mistakes that is made with them."""

import unicodedata

import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score

from llm.data.attacks import (
    ATTACKS,
    LOOK_ALIKES,
    digits_for_letters,
    look_alike_letters,
    signs_left_out,
    signs_masked,
    spaced_letters,
)
from llm.data.signs import way_to_answer
from llm.data.splits import Splits
from llm.data.tsv import Message
from llm.studies.mistakes import by_way, confusion, counted, reliability, respelled

MESSAGES = [
    "Call 0800 123 4567 now",
    "+44 7700 900123",
    "txt WIN to 80086 or see www.win.example/now",
    "Claim at https://prize.example?id=7 today!",
    "write to me@home.co.uk",
    "£1,000,000 is yours",
    "it cost 12.3456 or 2,5000 pounds",
    "see you at 8",
    "see you then.it was nice",
    "",
]
WAYS = ["telephone number"] * 2 + ["short code"] + ["link"] * 2 + ["other digits"] * 3


def test_the_way_to_answer():
    assert [way_to_answer(text) for text in MESSAGES] == WAYS + ["no digit"] * 2


def test_masks_leave_words_alone():
    assert signs_masked(MESSAGES[2]) == "txt WIN to 00000 or see link"
    assert signs_left_out(MESSAGES[2]) == "txt WIN to or see"
    for text in MESSAGES:
        assert not any(c.isdigit() for c in signs_left_out(text))
        assert set(filter(str.isdigit, signs_masked(text))) <= {"0"}
        assert way_to_answer(signs_left_out(text)) == "no digit"


@pytest.mark.parametrize("attack", ATTACKS.values())
def test_attacks_leave_what_has_to_work(attack):
    text = (
        "FREE entry! Text WIN2 to 80086, call 0800123 or www.pills.example/cheap, mail a@free.com"
    )
    for part in ("WIN2", "80086", "0800123", "www.pills.example/cheap", "a@free.com"):
        assert part in attack(text)
    assert attack(text) != text
    assert attack("see u @ 8, ok?") == "see u @ 8, ok?"


def test_attacks_can_be_undone_by_a_reader():
    assert digits_for_letters("Viagra offers") == "V14gr4 0ff3r5"
    assert spaced_letters("Viagra offers").replace(" ", "") == "Viagraoffers"
    changed = look_alike_letters("Peace")
    assert len(changed) == 5
    assert changed != "Peace" == unicodedata.normalize("NFKC", "Peace")
    assert unicodedata.normalize("NFKC", changed) == changed  # no normal form undoes it


def test_every_look_alike_is_a_cyrillic_letter_of_the_same_case():
    for latin, other in LOOK_ALIKES.items():
        assert unicodedata.name(chr(other)).startswith("CYRILLIC")
        assert unicodedata.category(chr(other)) == unicodedata.category(chr(latin))


LABELS = [1, 1, 1, 0, 0, 0, 0, 1]
says_of = torch.tensor([0.9, 0.3, 0.99, 0.1, 0.6, 0.0, 0.01, 1.0])


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.95])
def test_the_confusion_is_scikit_learns(threshold):
    found = confusion(LABELS, says_of, threshold)
    said = (says_of >= threshold).long().tolist()
    counts = [found[key] for key in ("true_ham", "alarms", "missed", "found")]
    assert counts == confusion_matrix(LABELS, said).ravel().tolist()
    assert found["f1"] == pytest.approx(f1_score(LABELS, said))


def test_every_message_is_in_one_bin():
    bins = reliability(LABELS, says_of, (0, 0.1, 0.5, 1))
    assert [entry["messages"] for entry in bins] == [2, 2, 4]
    assert [entry["spam"] for entry in bins] == [0, 1, 3]
    assert sum(entry["said"] for entry in bins) == pytest.approx(says_of.sum().item())


def test_mistakes_are_counted_by_way():
    messages = [Message(text, int(i < 5)) for i, text in enumerate(MESSAGES[:8])]
    table = by_way(messages, torch.tensor([0.9, 0.1, 0.9, 0.2, 0.3, 0.7, 0.0, 0.0]))
    assert table["telephone number"] == {"spam": 2, "missed": 1, "ham": 0, "alarms": 0}
    assert table["link"] == {"spam": 2, "missed": 2, "ham": 0, "alarms": 0}
    assert table["other digits"] == {"spam": 0, "missed": 0, "ham": 3, "alarms": 1}


def test_only_what_has_changed_is_asked_again():
    asked = []

    def predict(texts):
        asked.extend(texts)
        return torch.full((len(texts),), 0.5)

    says = respelled(predict, ["a 1", "b"], signs_masked, torch.tensor([0.1, 0.2]))
    assert asked == ["a 0"]
    torch.testing.assert_close(says, torch.tensor([0.5, 0.2]))


def test_a_model_that_looks_for_digits_is_seen_through():
    """It finds all spam with a digit; masked it finds none, and disguised ham becomes spam."""

    def predict(texts):
        return torch.tensor([0.9 if any(c.isdigit() for c in text) else 0.1 for text in texts])

    spam = [Message("Claim 5000 pounds, call 08001234567", 1), Message("Reply DATE", 1)]
    ham = [Message("coming home soon", 0), Message("see you later", 0)]
    found = counted(predict, Splits([], spam + ham, spam + ham), spam + ham)
    assert found["at_half"]["missed"] == found["ways"]["no digit"]["missed"] == 1
    assert found["masked"]["both left out"] == 0
    assert found["masked"]["0 for each digit, one word for links"] == found["at_half"]["f1"]
    none, digits, spaced, _ = found["attacks"].values()
    assert none == spaced == {"messages": 2, "spam": 1, "ham": 0}
    assert digits == {"messages": 2, "spam": 2, "ham": 2}
