import html.parser
import math

import pytest
import torch
from demonstration import demonstration, page
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small import write_adapter, write_base, write_messages

from llm.inference.adapters import Adapters
from llm.inference.explain import MOST_WORDS, explain
from llm.model.attention import MultiHeadAttention


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    where = tmp_path_factory.mktemp("explain")
    base, tsv = write_base(where / "base"), write_messages(where / "messages.tsv")
    return Adapters.load(
        {task: write_adapter(where / task, base, tsv, task) for task in ("spam", "question")}
    )


def test_the_effect_of_a_word_is_what_leaving_it_out_changes(adapters):
    """Against the two messages classified by themselves, with the adapter in use."""
    message = "WIN a  free prize\nnow"
    answers = explain(adapters, message)
    assert {name: answer.label for name, answer in answers.items()} == {
        "spam": "spam",
        "question": "question",
    }
    for name, answer in answers.items():
        adapters.use(name)
        assert answer.probability == pytest.approx(float(adapters.classify([message])[0, 1]), 1e-5)
        assert [word.text for word in answer.words] == message.split()
        for word in answer.words:
            assert message[word.start :].startswith(word.text)
            without = message[: word.start] + message[word.start + len(word.text) :]
            odds = [
                float(torch.logit(p[1].double())) for p in adapters.classify([message, without])
            ]
            assert word.effect == pytest.approx(odds[0] - odds[1], abs=1e-3)
    assert any(abs(word.effect) > 0.1 for word in answers["spam"].words)


def test_all_variants_for_all_adapters_are_one_forward_pass(adapters, monkeypatch):
    passes = []
    combine = MultiHeadAttention.combine
    monkeypatch.setattr(
        MultiHeadAttention,
        "combine",
        lambda self, *a, **o: passes.append(1) or combine(self, *a, **o),
    )
    explain(adapters, "one two three four five")
    assert len(passes) == len(adapters.model.body.trf_blocks)


class Reader(html.parser.HTMLParser):
    """Collects tags, and the text of the words."""

    def __init__(self):
        super().__init__()
        self.tags, self.shown = set(), ""

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.shown += data


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(message=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@example(message="")
@example(message="<script>alert(1)</script> <img src=x onerror=alert(1)> & \"quoted\" 'so'")
@example(message="🎉 שלום \u202e مرحبا")
@example(message="word " * 500)
@example(message="x" * 100_000)
def test_any_message_is_shown_as_text(adapters, message):
    answers = explain(adapters, message)
    reader = Reader()
    reader.feed(page(answers))
    assert reader.tags <= {"div", "table", "tr", "td", "b", "span"}
    for answer in answers.values():
        assert math.isfinite(answer.probability)
        assert len(answer.words) == min(len(message.split()), MOST_WORDS)
        for word in answer.words:
            assert word.text.replace("\0", "\ufffd") in reader.shown.replace("\0", "\ufffd")


def test_typing_draws_the_answer_anew(adapters):
    box, answers = demonstration(adapters, "see you tonight").children
    assert "tonight" in answers.value
    before = answers.value
    box.value = "WIN a free prize, call now!"
    assert "tonight" not in answers.value
    assert "prize" in answers.value
    box.value = "see you tonight"
    assert answers.value == before
    box.value = ""
    assert "spam" in answers.value
