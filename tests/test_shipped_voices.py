"""The two voices that come with the project give out no telephone number of the collection."""

import pytest

from llm.data.messages import load_messages
from llm.formats.finetuned import load_finetuned
from llm.inference.generate import write_documents
from llm.inference.memorised import numbers_in
from llm.utils.paths import VOICES


@pytest.fixture(scope="module")
def written():
    """What each voice writes, from nothing and from the beginnings that numbers follow."""
    found = {}
    for name in VOICES:
        model, tokenizer, record = load_finetuned(VOICES[name], writes=True)
        assert record.masks_digits
        found[name] = [
            tokenizer.decode(ids) for ids in write_documents(model, tokenizer.eot_id, 60, 60)
        ]
    return found


@pytest.mark.parametrize("name", VOICES)
def test_no_number_of_the_collection_is_written(name, written):
    known = set().union(*(numbers_in(message.text) for message in load_messages().messages))
    assert len(known) > 250
    assert not known & set().union(*map(numbers_in, written[name]))


def test_the_spam_voice_writes_zeros_where_numbers_were(written):
    text = "".join(written["spam"])
    digits = [c for c in text if c.isdigit()]
    assert len(digits) > 200
    assert digits.count("0") / len(digits) > 0.9  # a few others the base knows from its books


def test_the_voices_differ(written):
    """Spam is longer, and full of capitals."""
    spam, ham = ("".join(written[name]) for name in ("spam", "ham"))
    assert len(spam) > 1.3 * len(ham)
    capitals = [sum(map(str.isupper, text)) / len(text) for text in (spam, ham)]
    assert capitals[0] > 1.5 * capitals[1]
