import asyncio
import html.parser
import math

import demonstration as in_notebook
import pytest
import text_box
import torch
from demonstration import OPENING, page
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small import write_adapter, write_base, write_messages

from llm.inference.adapters import Adapters
from llm.inference.draft import Draft, shared
from llm.inference.explain import explain, explanations
from llm.model.attention import MultiHeadAttention
from llm.utils.paths import BUNDLED


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
        assert [word.text for word in answer.parts] == message.split()
        for word in answer.parts:
            assert message[word.start :].startswith(word.text)
            without = message[: word.start] + message[word.start + len(word.text) :]
            odds = [
                float(torch.logit(p[1].double())) for p in adapters.classify([message, without])
            ]
            assert word.effect == pytest.approx(odds[0] - odds[1], abs=1e-3)
    assert any(abs(word.effect) > 0.1 for word in answers["spam"].parts)


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
    shown = reader.shown.replace("\0", "\ufffd")
    for answer in answers.values():
        assert math.isfinite(answer.probability)
        parts = [*(part.text for part in answer.parts), answer.unread]
        assert "".join("".join(parts).split()) == "".join(message.split())
        assert all(part.strip().replace("\0", "\ufffd") in shown for part in parts)
    assert ("has not read" in shown) == bool(answer.unread)


@pytest.fixture
def long_message():
    return " ".join(f"word{number}" for number in range(150)) + " WIN a free prize now"


def test_a_long_message_is_explained_to_its_end(adapters, long_message, monkeypatch):
    """In parts, each with what leaving it out changes, against the messages by themselves."""
    monkeypatch.setattr("llm.inference.explain.AT_ONCE", 256)
    monkeypatch.setattr("llm.inference.explain.COARSE", 1024)
    monkeypatch.setattr("llm.inference.explain.ALL", 3000)
    monkeypatch.setattr("llm.inference.explain.LITTLE", 0.0)
    context = adapters.model.config.context_length
    stages = [stage["spam"] for stage in explanations(adapters, long_message)]
    first, last = stages[0], stages[-1]
    assert all(part.effect is None for part in first.parts)
    assert first.probability == last.probability
    assert len(last.parts) > len(first.parts)
    read = long_message[: last.parts[-1].start + len(last.parts[-1].text)]
    assert " ".join(part.text for part in last.parts) == read
    assert f"{read} {last.unread}".split() == long_message.split() or last.unread
    assert len(adapters.tokenizer.encode(read)) <= context
    adapters.use("spam")
    for part in last.parts[:: max(1, len(last.parts) // 4)]:
        cut = read[: part.start] + read[part.start + len(part.text) :]
        odds = [float(torch.logit(p[1].double())) for p in adapters.classify([read, cut])]
        assert part.effect == pytest.approx(odds[0] - odds[1], abs=2e-3)


def test_what_was_not_read_is_said(adapters):
    message = "word " * 600
    answer = explain(adapters, message)["spam"]
    read = message[: answer.parts[-1].start + len(answer.parts[-1].text)]
    assert len(read.split()) + len(answer.unread.split()) == 600
    assert len(answer.unread.split()) > 0
    assert f"{len(answer.unread.split()):,} words" in page({"spam": answer})


def test_the_box_answers_when_the_typing_pauses(adapters, monkeypatch):
    monkeypatch.setattr(text_box, "PAUSE", 0)
    asked = []

    def noted(adapters, message, draft):
        asked.append(message)
        yield from explanations(adapters, message, draft)

    monkeypatch.setattr(in_notebook, "explanations", noted)

    async def type_in():
        box, answers = in_notebook.demonstration(adapters, "see you tonight").children
        assert "tonight" in answers.value
        before = answers.value
        for typed in ("WIN", "WIN a free", "WIN a free prize, call now!"):
            box.value = typed
        await settle()
        assert asked == ["WIN a free prize, call now!"], "each key was answered"
        assert "tonight" not in answers.value and "prize" in answers.value
        box.value = "see you tonight"
        await settle()
        assert answers.value == before
        for nothing in ("", "  \n"):
            box.value = nothing
            await settle()
            assert answers.value == ""

    async def settle():
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)

    asyncio.run(type_in())
    assert len(asked) == 2


def test_a_key_ends_the_answer_to_the_one_before(adapters, long_message, monkeypatch):
    monkeypatch.setattr(text_box, "PAUSE", 0)
    monkeypatch.setattr("llm.inference.explain.AT_ONCE", 256)
    drawn = []

    async def type_in():
        box, answers = in_notebook.demonstration(adapters).children
        answers.observe(lambda change: drawn.append(change["new"]), names="value")
        box.value = long_message
        while not drawn:
            await asyncio.sleep(0)
        box.value = "see you"
        while "see" not in drawn[-1]:
            await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    asyncio.run(type_in())
    assert len(drawn) <= 3, "the first message was explained to its end"


def test_the_shipped_adapter_calls_the_opening_spam_and_can_be_talked_out_of_it():
    """As the sixth notebook's text promises."""
    shipped = Adapters.load(BUNDLED)
    shipped.use("spam")
    whole, without = shipped.classify([OPENING, OPENING.replace(" on 09061701461", "")])[:, 1]
    assert whole > 0.9 and without < 0.5


def test_a_draft_answers_as_if_it_read_everything_anew(adapters, monkeypatch):
    """Whatever is typed after what: each answer is that of the message by itself."""
    read = []
    states = type(adapters.model.body).hidden_states
    monkeypatch.setattr(
        type(adapters.model.body),
        "hidden_states",
        lambda self, ids, cache=None: read.append(ids.shape[1]) or states(self, ids, cache),
    )
    long = "see you at the alpha or call me "
    typed = ["s", long, long + "n", long + "now", long + "now?", long[:-5], long[9:], "", long * 9]
    draft, names = Draft(adapters), ["spam", "question"]
    adapters.use("question")
    for message in typed:
        del read[:]
        found = draft.logits(message, names)
        torch.testing.assert_close(
            found, adapters.mixed_logits([message] * 2, names), atol=1e-4, rtol=1e-4
        )
        if message == long + "now":
            assert max(read) <= 4, "what was read before was read again"
    assert adapters.in_use == "question"


def test_what_two_texts_share_leaves_something_to_read():
    assert shared([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared([1, 2, 3], [1, 2, 3]) == 2
    assert shared([1, 2, 3], [1]) == 0
    assert shared([], [1, 2]) == 0
