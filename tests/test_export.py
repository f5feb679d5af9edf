"""What transformers makes of an exported folder: the same numbers, labels and tokens."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import write_adapter, write_base, write_messages
from twins import TINY, random_ids, random_model, randomise

from llm.data.tokenizer import gpt2_tokenizer, mini_tokenizer
from llm.formats.base import load_base, load_classifier, load_tokenizer
from llm.formats.export import export_folder
from llm.formats.finetuned import load_finetuned
from llm.formats.transformers import bias_as_shift, export_transformers, merge_of, write_tokenizer
from llm.lora.inject import lora_layers, merge, replace_linear_with_lora
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.parameters import fingerprint
from llm.utils.errors import InputError

SHARED_GPT2 = Path(__file__).parents[2] / "shared" / "gpt2"
MINI = mini_tokenizer()
CONFIG = GPTConfig(MINI.vocab_size, 48, 32, 4, 2)
LABELS = ["ham", "spam"]
MESSAGES = [
    "You have WON a £1000 prize! Call 09061701461 now",
    "ok see you at 5 :)",
    "  two  spaces\tand\n\nlines ",
    "naïve café 😀 日本語",
    "it ends in <|endoftext|>",
    "<|endoftext|>",
    "word " * 60,  # longer than the context
]


def classifier(lora=False, targets=("W_query", "fc2")) -> GPTClassifier:
    model = GPTClassifier(CONFIG)
    randomise(model)
    if lora:
        replace_linear_with_lora(model, rank=3, alpha=6, targets=targets)
        randomise(model, seed=1)
    return model.eval()


def probabilities(model, message: str) -> torch.Tensor:
    ids = torch.tensor([MINI.encode(message)[: CONFIG.context_length]])
    with torch.no_grad():
        return torch.softmax(model(ids, torch.tensor([ids.shape[1]])), -1)[0]


@pytest.mark.parametrize("kind", ["plain", "lora", "merged", "all"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_pipeline_gives_our_probabilities(tmp_path, kind, batch_size):
    from transformers import pipeline

    model = classifier(kind != "plain", "all" if kind == "all" else ("W_query", "fc2"))
    if kind == "merged":
        merge(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export_transformers(model, MINI, tmp_path, LABELS)
    assert all(torch.equal(tensor, before[n]) for n, tensor in model.state_dict().items())
    pipe = pipeline("text-classification", str(tmp_path), top_k=None, batch_size=batch_size)
    for message, found in zip(MESSAGES, pipe(MESSAGES, truncation=True), strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        for label, expected in zip(LABELS, probabilities(model, message), strict=True):
            assert abs(scores[label] - expected) < 1e-5, message


def test_the_logits_are_ours_bias_included(tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = classifier(lora=True)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([3.0, -1.5]))
    export_transformers(model, MINI, tmp_path, LABELS)
    twin = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert twin.config.id2label == {0: "ham", 1: "spam"}
    assert twin.config.label2id == {"ham": 0, "spam": 1}
    assert twin.config.pad_token_id == MINI.eot_id
    assert twin.score.bias is None
    ids = random_ids(CONFIG, 3, 9) % MINI.eot_id
    lengths = torch.tensor([9, 2, 5])
    padded = torch.where(torch.arange(9) < lengths[:, None], ids, MINI.eot_id)
    with torch.no_grad():
        torch.testing.assert_close(twin(padded).logits, model(ids, lengths), atol=1e-5, rtol=1e-5)


def test_no_lora_layer_is_left_and_nothing_is_unexpected(tmp_path):
    from transformers import GPT2ForSequenceClassification

    export_transformers(classifier(lora=True), MINI, tmp_path)
    _, info = GPT2ForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_a_base_becomes_a_language_model(tmp_path):
    from transformers import AutoModelForCausalLM

    model = random_model(CONFIG)
    export_transformers(model, MINI, tmp_path)
    twin, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(twin).__name__ == "GPT2LMHeadModel"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = random_ids(CONFIG, 2, 20)
    with torch.no_grad():
        torch.testing.assert_close(twin(ids).logits, model(ids), atol=1e-5, rtol=1e-5)


def test_a_base_comes_back_as_it_was(tmp_path):
    model = random_model(CONFIG)
    export_transformers(model, MINI, tmp_path)
    loaded = load_base(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    assert load_tokenizer(tmp_path).encode(MESSAGES[0]) == MINI.encode(MESSAGES[0])


def test_a_classifier_comes_back(tmp_path):
    model = classifier()
    export_transformers(model, MINI, tmp_path, LABELS)
    loaded, labels = load_classifier(tmp_path)
    assert labels == LABELS
    ids, lengths = random_ids(CONFIG, 3, 9), torch.tensor([9, 2, 5])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids, lengths), model(ids, lengths), atol=1e-5, rtol=1e-5)


def test_a_classifier_that_transformers_saved_is_read(tmp_path):
    from transformers import GPT2ForSequenceClassification
    from twins import hf_config

    names = {0: "no", 1: "perhaps", 2: "yes"}
    twin = GPT2ForSequenceClassification(hf_config(TINY, id2label=names, pad_token_id=0)).eval()
    twin.save_pretrained(tmp_path)
    model, labels = load_classifier(tmp_path)
    assert labels == ["no", "perhaps", "yes"]
    ids = 1 + random_ids(TINY, 2, 9) % (TINY.vocab_size - 1)
    with torch.no_grad():
        expected = twin(ids).logits
        found = model.eval()(ids, torch.tensor([9, 9]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_language_model_is_no_classifier(tmp_path):
    export_transformers(random_model(CONFIG), MINI, tmp_path)
    with pytest.raises(InputError, match="missing: score.weight"):
        load_classifier(tmp_path)


# --- the bias ---


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
def test_the_shift_gives_the_bias_exactly(classes):
    weight, bias = torch.randn(classes, 32) * 0.02, torch.randn(classes)
    shift = bias_as_shift(weight, bias)
    torch.testing.assert_close(weight @ shift, bias, atol=1e-5, rtol=1e-5)


def test_a_bias_that_cannot_be_carried_is_refused():
    weight = torch.ones(2, 32)  # both rows alike: W d has two equal entries, for any d
    assert bias_as_shift(weight, torch.tensor([1.0, 1.0])).shape == (32,)
    with pytest.raises(InputError, match="depend on one another"):
        bias_as_shift(weight, torch.tensor([1.0, 2.0]))


def test_labels_must_fit(tmp_path):
    with pytest.raises(InputError, match="2 classes need as many labels, not 3"):
        export_transformers(classifier(), MINI, tmp_path, ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot create the folder"):
        export_transformers(classifier(), MINI, tmp_path / "file" / "folder")


# --- a fine-tuned folder through each door ---


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    base, messages = write_base(folder / "base"), write_messages(folder / "messages.tsv")
    return write_adapter(folder / "adapter", base, messages, pool="last")


def of_ours(folder, message: str) -> torch.Tensor:
    model, tokenizer, _ = load_finetuned(folder)
    ids = torch.tensor([tokenizer.encode(message)[: model.config.context_length]])
    with torch.no_grad():
        return torch.softmax(model(ids, torch.tensor([ids.shape[1]])), -1)[0]


def test_a_finetuned_folder_for_transformers(finetuned, tmp_path):
    from transformers import pipeline

    assert export_folder("transformers", tmp_path, finetuned)["base"] is None
    pipe = pipeline("text-classification", str(tmp_path), top_k=None)
    for message in MESSAGES:
        scores = {entry["label"]: entry["score"] for entry in pipe([message], truncation=True)[0]}
        expected = dict(zip(LABELS, of_ours(finetuned, message).tolist(), strict=True))
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_finetuned_folder_for_peft(finetuned, tmp_path):
    """The three lines of the README."""
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    base = export_folder("peft", tmp_path, finetuned)["base"]
    assert Path(base) == tmp_path / "base"
    model = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    for message in MESSAGES:
        scores = {entry["label"]: entry["score"] for entry in pipe([message], truncation=True)[0]}
        expected = dict(zip(LABELS, of_ours(finetuned, message).tolist(), strict=True))
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_base_through_the_same_door(finetuned, tmp_path):
    base = str(finetuned.parent / "base")
    export_folder("transformers", tmp_path, model=base)
    assert fingerprint(load_base(tmp_path)) == fingerprint(load_base(base))
    with pytest.raises(InputError, match="a base has no adapter"):
        export_folder("peft", tmp_path, model=base)


@pytest.mark.parametrize("source", ["folder", "model"])
def test_a_folder_is_not_written_over_itself(finetuned, source):
    folder = finetuned if source == "folder" else finetuned.parent / "base"
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="choose another folder") as raised:
        export_folder("transformers", folder / ".." / folder.name, **{source: str(folder)})
    assert raised.value.settings == ("out",)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_other_formats_are_unknown(finetuned, tmp_path):
    with pytest.raises(InputError, match="choose transformers or peft"):
        export_folder("onnx", tmp_path, finetuned)


# --- the tokenizer ---


@pytest.fixture(scope="module")
def mini_in_transformers(tmp_path_factory):
    from transformers import GPT2TokenizerFast

    folder = tmp_path_factory.mktemp("mini")
    write_tokenizer(MINI, folder, 256)
    return GPT2TokenizerFast.from_pretrained(folder)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_mini_tokenizes_alike_in_transformers(mini_in_transformers, text):
    assert mini_in_transformers(text)["input_ids"] == MINI.encode(text)
    assert mini_in_transformers.decode(MINI.encode(text)) == text


@pytest.mark.parametrize("message", MESSAGES)
def test_the_messages_tokenize_alike(mini_in_transformers, message):
    assert mini_in_transformers(message)["input_ids"] == MINI.encode(message)


def test_mini_with_auto_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    export_transformers(random_model(CONFIG), MINI, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == MINI.vocab_size
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == MINI.eot_id
    assert tokenizer.model_max_length == CONFIG.context_length
    assert tokenizer(MESSAGES[0])["input_ids"] == MINI.encode(MESSAGES[0])


@pytest.mark.skipif(not SHARED_GPT2.is_dir(), reason="GPT-2's vocabulary is not in ../shared/gpt2")
def test_gpt2s_vocabulary_comes_out_as_it_went_in(tmp_path):
    from transformers import GPT2TokenizerFast

    tokenizer = gpt2_tokenizer(SHARED_GPT2)
    write_tokenizer(tokenizer, tmp_path, 1024)
    original = json.loads((SHARED_GPT2 / "encoder.json").read_text(encoding="utf-8"))
    assert json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8")) == original
    lines = (SHARED_GPT2 / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    assert (tmp_path / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] == lines
    theirs = GPT2TokenizerFast.from_pretrained(tmp_path)
    for message in MESSAGES:
        assert theirs(message)["input_ids"] == tokenizer.encode(message)


def test_the_halves_of_a_merge():
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {b"ab": 256, b"abab": 257, b"bc": 258, b"abc": 259}
    assert merge_of(b"ab", ranks) == (b"a", b"b")
    assert merge_of(b"abab", ranks) == (b"ab", b"ab")
    assert merge_of(b"abc", ranks) == (b"ab", b"c")  # ab came before bc


def test_a_vocabulary_that_splits_otherwise_is_refused(tmp_path):
    from llm.data.tokenizer import Tokenizer

    ranks = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(InputError, match="does not split text as GPT-2 does"):
        write_tokenizer(Tokenizer("letters", ranks, 256, r"."), tmp_path, 8)


def test_exporting_leaves_lora_layers_in_the_model(tmp_path):
    model = classifier(lora=True)
    export_transformers(model, MINI, tmp_path)
    assert lora_layers(model)
    assert not any(layer.merged for layer in lora_layers(model).values())
