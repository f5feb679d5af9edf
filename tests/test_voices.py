"""Voices on one base: alone, in turn, side by side; cached or not; the free classifier."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import SMALL, write_adapter, write_base, write_messages

from llm.data.documents import encode_documents, masked
from llm.formats.base import load_folder, load_tokenizer
from llm.formats.finetuned import load_finetuned
from llm.inference.adapters import Adapters
from llm.inference.bayes import classify_by_voices, log_likelihoods, log_prior, posterior
from llm.inference.explain import explain
from llm.inference.generate import continue_each, generate, write_documents
from llm.inference.log_probabilities import log_probabilities
from llm.inference.memorised import numbers_in, repeated
from llm.inference.voices import (
    continuations,
    log_probabilities_mixed,
    write,
    write_in_turns,
    write_mixed,
)
from llm.lora.inject import merge, unmerge
from llm.lora.settings import LoRASettings
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint
from llm.training.finetuning import finetune
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError

PROMPTS = ["WIN", "see you at the alpha", "", "call me now, or else"]
VOICES = ["spam", None, "ham", "classifier"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    """A voice for each label, with layers of their own, and a classifier."""
    where = tmp_path_factory.mktemp("adapters")
    tsv = write_messages(where / "messages.tsv")
    found = {"classifier": write_adapter(where / "classifier", base, tsv, pool="last")}
    for label, lora in (("spam", {"rank": 2}), ("ham", {"rank": 3, "targets": ["W_key", "fc2"]})):
        settings = FinetuneSettings(
            lora=LoRASettings(**lora),
            model=str(base),
            task="writing",
            text=[label],
            data=str(tsv),
            epochs=1,
            batch_size=4,
            lr=0.1,
        )
        found[label] = where / label
        finetune(settings, found[label], device="cpu")
    return found


@pytest.fixture(scope="module")
def loaded(folders):
    return Adapters.load(folders)


@pytest.fixture
def adapters(loaded):
    yield loaded
    loaded.use(None)


@pytest.fixture(scope="module")
def alone(folders, base):
    """What a folder writes that is loaded by itself, or the base under the name None."""
    models = {None: (load_folder(base).eval(), load_tokenizer(base))}
    for name, folder in folders.items():
        model, tokenizer, record = load_finetuned(folder)
        models[name] = (model if record.writes else model.body, tokenizer)

    def write(name, prompt, tokens, **settings) -> str:
        model, tokenizer = models[name]
        start = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]])
        new = generate(model, start, tokens, stop=tokenizer.eot_id, **settings)
        new = new[0, start.shape[1] :].tolist()
        return tokenizer.decode([token for token in new if token != tokenizer.eot_id])

    write.models = {name: model for name, (model, _) in models.items()}
    return write


def test_each_voice_writes_what_its_folder_writes_alone(adapters, alone, base):
    texts = []
    for name in (*VOICES, "spam"):
        adapters.use(name)
        texts.append(write(adapters, "WIN a", 12))
        assert texts[-1] == alone(name, "WIN a", 12)
    assert len(set(texts)) == 4  # they differ, or this says nothing
    assert texts[0] == texts[4]
    adapters.use(None)
    assert fingerprint(adapters.model.body) == fingerprint(load_folder(base))


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_cached_or_not_merged_or_not_the_tokens_are_the_same(adapters, folders, drawn):
    """30 tokens on top of 40 outgrow the context of 48, so the cache is begun anew as well."""
    adapters.use("spam")
    prompt = "a b c d e f g h i j k l m n o p q r s t"
    text = write(adapters, prompt, 30, **drawn)
    assert write(adapters, prompt, 30, use_cache=False, **drawn) == text
    model, tokenizer, _ = load_finetuned(folders["spam"])
    start = torch.tensor([[tokenizer.eot_id, *tokenizer.encode(prompt)]])
    for change in (merge, unmerge):
        change(model)
        new = generate(model, start, 30, stop=tokenizer.eot_id, **drawn)[0, start.shape[1] :]
        new = [token for token in new.tolist() if token != tokenizer.eot_id]
        assert tokenizer.decode(new) == text


def test_a_text_goes_on_in_another_voice(adapters, alone):
    """The second turn is what its voice alone makes of all tokens so far."""
    adapters.use("classifier")
    first, second, third = write_in_turns(adapters, "WIN a", [("spam", 6), ("ham", 6), ("spam", 4)])
    assert adapters.in_use == "classifier"
    tokenizer = adapters.tokenizer
    ids = torch.tensor([[tokenizer.eot_id, *tokenizer.encode("WIN a")]])
    for name, count, said in (("spam", 6, first), ("ham", 6, second), ("spam", 4, third)):
        longer = generate(alone.models[name], ids, count, use_cache=False)
        assert tokenizer.decode(longer[0, ids.shape[1] :].tolist()) == said
        ids = longer


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_mixed_batch_writes_what_each_voice_writes_alone(adapters, alone, use_cache):
    """Four prompts of four lengths, two voices, the base and a classifier's body."""
    adapters.use("ham")
    texts = write_mixed(adapters, PROMPTS, VOICES, 8, use_cache=use_cache)
    assert adapters.in_use == "ham"
    for prompt, name, text in zip(PROMPTS, VOICES, texts, strict=True):
        assert text == alone(name, prompt, 8), name


@pytest.mark.parametrize("drawn", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "drawn"])
def test_voices_that_write_a_token_in_turn_write_what_each_writes_alone(adapters, alone, drawn):
    """Also where another adapter is used between two tokens; 60 outgrow the context of 48."""
    adapters.use("classifier")
    stages = []
    for stage in continuations(adapters, "WIN a", VOICES, 60, **drawn):
        assert adapters.in_use == "classifier"
        if len(stages) % 10 == 0:
            adapters.classify(["see you at the alpha"])
        stages.append(stage)
    for name in VOICES:
        assert stages[-1][name].text == alone(name, "WIN a", 60, **drawn), name
        assert stages[0][name].text == alone(name, "WIN a", 1, **drawn), name
        ended = [stage[name].ended for stage in stages]
        assert ended == sorted(ended)  # and once ended, it stays so
        assert ended[-1] or len(stages) == 60


def test_prompts_of_many_lengths_are_continued_as_each_alone(tiny):
    torch.manual_seed(1)
    model = GPTModel(tiny).eval()
    prompts = [torch.randint(61, (n,)).tolist() for n in (5, 1, 9, 5)]
    prompts[2][1] = prompts[2][8] = 60  # the token that ends a text ends none inside a prompt
    new = continue_each(model, prompts, 25, stop=60)
    for prompt, row in zip(prompts, new, strict=True):
        expected = generate(model, torch.tensor([prompt]), 25)[0, len(prompt) :].tolist()
        assert row == (expected[: expected.index(60)] if 60 in expected else expected)
    assert continue_each(model, [], 5, stop=60) == []
    with pytest.raises(InputError, match="no tokens"):
        continue_each(model, [[1], []], 5, stop=60)


def test_documents_are_drawn_by_their_seed_and_hold_no_end(tiny):
    model = GPTModel(tiny).eval()
    first, again, other = (write_documents(model, 60, 130, 6, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 130 and len(set(map(tuple, first))) > 100
    assert all(len(ids) <= 6 and 60 not in ids for ids in first)
    greedy = write_documents(model, 60, 1, 6, temperature=0)
    assert greedy == continue_each(model, [[60]], 6, stop=60)


def test_a_voice_tells_no_messages_apart(adapters):
    adapters.use("spam")
    for ask in (
        lambda: adapters.classify(["hello"]),
        lambda: adapters.classify_mixed(["hello", "you"], ["classifier", "spam"]),
    ):
        with pytest.raises(InputError, match="'spam' writes; it tells no messages apart"):
            ask()
    assert list(explain(adapters, "call me")) == ["classifier"]
    adapters.use("classifier")
    assert adapters.classify(["hello"]).shape == (1, 2)
    with pytest.raises(InputError, match="2 prompts and 1 names"):
        write_mixed(adapters, ["a", "b"], ["spam"])


# The free classifier -----------------------------------------------------------------------------


def test_mixed_log_probabilities_are_those_of_each_voice_alone(adapters, alone):
    texts = ["WIN a free prize", "ok", "word " * 60, "see you at alpha tonight", ""]
    names = ["spam", "ham", "ham", "spam", "ham"]
    for budget in (1, 4096):
        found = log_probabilities_mixed(adapters, texts, names, budget)
        for text, name, log_p in zip(texts, names, found, strict=True):
            encoded = encode_documents(adapters.tokenizer, [text], SMALL.context_length)
            expected = float(log_probabilities(alone.models[name], encoded))
            assert float(log_p) == pytest.approx(expected, abs=1e-3)


def test_bayes_rule_in_closed_form():
    """0.75 of the prior and a likelihood 9 times smaller: odds of 3 to 9."""
    prior = log_prior([3, 1])
    assert prior.exp().tolist() == pytest.approx([0.75, 0.25])
    likelihood = torch.tensor([[0.01, 0.09], [0.5, 0.5]]).log()
    assert posterior(likelihood, prior).flatten().tolist() == pytest.approx(
        [0.25, 0.75, 0.75, 0.25]
    )
    far = posterior(torch.tensor([[-2000.0, -2010.0]]), log_prior([1, 1]))  # no 0 / 0
    assert far[0].tolist() == pytest.approx([1 / (1 + math.exp(-10)), 1 / (1 + math.exp(10))])
    with pytest.raises(InputError, match="each class needs"):
        log_prior([3, 0])


def test_the_free_classifier_compares_the_voices(adapters):
    """A voice that was trained on messages of a kind finds them likelier than the other does."""
    texts = ["WIN a free alpha beta prize, call now!", "see you at gamma delta tonight"]
    likelihoods = log_likelihoods(adapters, texts, ["ham", "spam"])
    found = classify_by_voices(adapters, texts, ["ham", "spam"], log_prior([2, 1]))
    odds = likelihoods[:, 1] - likelihoods[:, 0] - math.log(2)
    assert found[:, 1].tolist() == pytest.approx(torch.sigmoid(odds).tolist())
    assert found[0, 1] > 0.5 > found[1, 1]


# What is remembered ------------------------------------------------------------------------------


def test_repeated_rows_are_counted_by_hand():
    known = [list(range(10)), [7, 7, 7]]
    written = [
        [0, 1, 2, 3, 99],  # rows 012 and 123 of three
        [5, 6, 7, 7, 7],  # 567 and 777, not 677
        [1, 3, 5, 7, 9],  # none of three
        [1, 2],  # too short to have one
    ]
    assert repeated(written, known, 3) == {
        "tokens": 3,
        "documents": 4,
        "documents_repeating": 2,
        "share": 0.5,
        "rows": 9,
        "rows_repeated": 4,
        "row_share": 4 / 9,
    }
    assert repeated(known, known, 3)["row_share"] == 1
    assert repeated([], known)["share"] == repeated(written, [])["row_share"] == 0


def test_telephone_numbers_are_found_however_they_are_spaced():
    text = "call 0800 123-456 or (07700)900.123 by 10:30, 12 345 of 2024"
    assert numbers_in(text) == {"0800123456", "07700900123"}
    assert numbers_in(masked(text)) == {"0000000000", "00000000000"}


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), max_size=4), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_repeated_rows_are_those_a_search_in_a_string_finds(documents, length):
    known, written = documents[:2], documents[2:]
    as_text = ["".join(map(str, ids)) for ids in known]
    rows = [
        "".join(map(str, ids[start : start + length]))
        for ids in written
        for start in range(len(ids) - length + 1)
    ]
    found = repeated(written, known, length)
    assert found["rows"] == len(rows)
    assert found["rows_repeated"] == sum(any(row in text for text in as_text) for row in rows)
