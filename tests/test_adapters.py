import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from small import SMALL, change_record, write_adapter, write_base, write_messages

from llm.data.tokenizer import mini_tokenizer
from llm.formats import adapter as adapter_files
from llm.formats.base import load_folder
from llm.formats.finetuned import load_finetuned
from llm.formats.record import read_record
from llm.inference.adapters import Adapters
from llm.inference.evaluation import classify
from llm.lora.inject import lora_layers, merge, unmerge
from llm.lora.layer import LinearWithLoRA
from llm.model.attention import MultiHeadAttention
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint
from llm.studies.storage import storage
from llm.utils.errors import InputError
from llm.utils.paths import BUNDLED

TEXTS = [
    "WIN a free prize, call now!",
    "see you tonight",
    "ok",
    "are you coming to the alpha beta party at ten or later",
    "call me",
    "FREE entry! Text WIN to 80082",
    "what did she say",
]
# Other ranks, other targets, the head included and not.
LORA = {
    "spam": {"rank": 2},
    "question": {"rank": 3, "targets": ["W_query", "fc2"], "alpha": 9},
    "everything": {"rank": 4, "targets": "all", "rslora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    where = tmp_path_factory.mktemp("adapters")
    messages = write_messages(where / "messages.tsv")
    return {
        name: write_adapter(
            where / name, base, messages, "question" if name == "question" else "spam", **lora
        )
        for name, lora in LORA.items()
    }


@pytest.fixture
def adapters(folders):
    return Adapters.load(folders)


def alone(folder, texts):
    """The probabilities of a folder loaded by itself, on a base of its own."""
    from llm.data.batching import encode_messages

    model, tokenizer, _ = load_finetuned(folder)
    return classify(model, encode_messages(tokenizer, texts, None, model.config.context_length))


def test_each_adapter_answers_as_its_folder_does_alone(adapters, folders):
    answers = []
    for name in (*folders, "spam"):
        adapters.use(name)
        answers.append(adapters.classify(TEXTS))
        torch.testing.assert_close(answers[-1], alone(folders[name], TEXTS), atol=1e-5, rtol=0)
    assert (answers[0] - answers[1]).abs().max() > 0.05  # the adapters differ, or this says nothing
    assert torch.equal(answers[0], answers[3])


def test_without_an_adapter_the_base_is_as_it_was(adapters, base):
    before = load_folder(base)
    adapters.use("everything")
    adapters.classify_mixed(TEXTS[:2], ["spam", "question"])
    adapters.use(None)
    assert lora_layers(adapters.model) == {}
    assert fingerprint(adapters.model.body) == fingerprint(before)
    ids = torch.tensor([mini_tokenizer().encode(TEXTS[0])])
    assert torch.equal(adapters.model.body(ids), before(ids))
    with pytest.raises(InputError, match="no adapter is in use; choose one of spam, question"):
        adapters.classify(TEXTS)


def test_adapters_share_the_base_and_never_stack(adapters):
    shared = {p.data_ptr() for p in adapters.model.body.parameters()}
    for name, count in (("spam", 12), ("question", 4), ("everything", 13), ("spam", 12)):
        adapters.use(name)
        layers = lora_layers(adapters.model)
        assert len(layers) == count
        assert not any(isinstance(layer.linear, LinearWithLoRA) for layer in layers.values())
        weights = {
            p.data_ptr() for n, p in adapters.model.body.named_parameters() if "lora" not in n
        }
        assert weights == shared


def test_switching_copies_nothing(adapters):
    """No tensor is made: every PyTorch operation goes through the dispatcher, and none is seen."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        adapters.use("spam")
        adapters.use("everything")
        adapters.use(None)
        torch.zeros(1)
    assert seen == ["aten.zeros.default"]


def test_a_mixed_batch_is_one_forward_pass_and_equals_one_by_one(adapters, monkeypatch):
    names = ["spam", "question", "everything", "question", "spam", "everything", "question"]
    passes = []
    combine = MultiHeadAttention.combine

    def counted(self, *arguments, **options):
        passes.append(self)
        return combine(self, *arguments, **options)

    monkeypatch.setattr(MultiHeadAttention, "combine", counted)
    adapters.use("question")
    mixed = adapters.classify_mixed(TEXTS, names)
    assert len(passes) == SMALL.n_layers
    assert adapters.in_use == "question"
    for text, name, probabilities in zip(TEXTS, names, mixed):
        adapters.use(name)
        one = adapters.classify([text])[0]
        torch.testing.assert_close(probabilities, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_a_mixed_batch_is_right_in_both_layouts(adapters, packed):
    adapters.model.packed = packed
    names = ["everything", "spam", "spam", "question", "question", "everything", "spam"]
    mixed = adapters.classify_mixed(TEXTS, names)
    for name in set(names):
        adapters.use(name)
        rows = [index for index, other in enumerate(names) if other == name]
        one = adapters.classify([TEXTS[index] for index in rows])
        torch.testing.assert_close(mixed[rows], one, atol=1e-5, rtol=0)


def test_mixed_batches_of_one_token_one_message_and_none(adapters):
    """With one token a message, packed tokens and messages cannot be told apart: nor need be."""
    texts, names = ["ok", "no", "a", ""], ["spam", "question", "spam", "everything"]
    mixed = adapters.classify_mixed(texts, names)
    for text, name, probabilities in zip(texts, names, mixed):
        torch.testing.assert_close(
            probabilities, adapters.classify_mixed([text], [name])[0], atol=1e-5, rtol=0
        )
    assert adapters.classify_mixed([], []).shape == (0, 2)
    assert torch.isfinite(adapters.classify_mixed(["x" * 100_000, "🎉"], ["spam", "spam"])).all()


def test_mistakes_are_refused_in_one_line(adapters, folders, tmp_path):
    with pytest.raises(InputError, match="no adapter is called 'poetry'; there are spam, question"):
        adapters.use("poetry")
    with pytest.raises(InputError, match="no adapter is called None"):
        adapters.classify_mixed(["a", "b"], ["spam", None])
    with pytest.raises(InputError, match="2 messages and 1 names"):
        adapters.classify_mixed(["a", "b"], ["spam"])
    with pytest.raises(InputError, match="'spam' already"):
        adapters.add("spam", folders["question"])
    with pytest.raises(InputError, match="at least one folder"):
        Adapters.load({})
    with pytest.raises(InputError, match="no fine-tuned folder"):
        adapters.add("nothing", tmp_path)
    adapters.use("spam")
    with pytest.raises(InputError, match="LoRA layers already"):
        Adapters(adapters.model.body, adapters.tokenizer)


def test_an_adapter_of_another_base_is_refused(adapters, tmp_path):
    other = write_base(tmp_path / "base", seed=1)
    messages = write_messages(tmp_path / "messages.tsv")
    folder = write_adapter(tmp_path / "other", other, messages)
    with pytest.raises(InputError, match="trained on another base"):
        adapters.add("other", folder)


def test_a_vocabulary_that_is_too_large_for_the_base_is_refused(folders, base, tmp_path):
    small = GPTModel(replace(SMALL, vocab_size=8000))
    with pytest.raises(InputError, match="vocabulary of mini has 8192 tokens, the model only 8000"):
        Adapters(small, mini_tokenizer())
    other = write_base(tmp_path / "base", config=small.config)
    folder = shutil.copytree(folders["spam"], tmp_path / "adapter")
    change_record(folder, base={**asdict(read_record(folder).base), "model": str(other)})
    with pytest.raises(InputError, match=f"{other} has 8192 tokens, the model only 8000"):
        Adapters.load({"spam": folder})


def test_a_damaged_adapter_leaves_the_others_as_they_were(adapters, folders, tmp_path):
    adapters.use("spam")
    before = adapters.classify(TEXTS)
    broken = shutil.copytree(folders["question"], tmp_path / "broken")
    about = json.loads((broken / "run.json").read_text())
    about["lora"]["rank"] = 2
    (broken / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"has shape \[16, 3\], not \[16, 2\]"):
        adapters.add("broken", broken)
    whole = (folders["question"] / "adapter.safetensors").read_bytes()
    (broken / "adapter.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="adapter.safetensors is damaged"):
        adapters.add("broken", broken)
    assert list(adapters) == list(LORA)
    assert adapters.in_use == "spam"
    assert torch.equal(adapters.classify(TEXTS), before)
    adapters.add("again", folders["question"])
    assert torch.equal(adapters.classify(TEXTS), before)


def test_a_merged_adapter_has_to_be_unmerged_before_another_is_used(adapters):
    """Merged into the weights that all adapters share, it would answer through the others."""
    adapters.use("spam")
    merge(adapters.model)
    for action in (
        lambda: adapters.use("question"),
        lambda: adapters.classify_mixed(["a"], ["question"]),
    ):
        with pytest.raises(InputError, match="'spam' is merged"):
            action()
    unmerge(adapters.model)
    adapters.use("question")


def test_a_run_that_is_no_lora_is_no_adapter(adapters, folders, tmp_path):
    folder = shutil.copytree(folders["spam"], tmp_path / "head")
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**about, "method": "head", "lora": None}))
    with pytest.raises(InputError, match="holds no adapter .its method is head"):
        adapters.add("head", folder)


def test_storage_is_what_lies_on_the_disk(folders, base):
    entries = storage(folders)
    assert [len(entry["tasks"]) for entry in entries] == [1, 2, 3]
    weights = sum(p.numel() for p in load_folder(base).parameters())
    for count, entry in enumerate(entries, start=1):
        names = list(folders)[:count]
        small = sum(
            (folders[name] / file).stat().st_size
            for name in names
            for file in ("adapter.safetensors", "run.json")
        )
        assert entry["adapter_bytes"] == entry["base_bytes"] + small
        assert 0 <= entry["base_bytes"] - 4 * weights < 5_000  # names and shapes
        assert 0 <= entry["full_bytes"] - count * 4 * (weights + 34) < count * 6_000


def test_the_bundled_adapters_are_small_and_fit_the_bundled_base():
    """Were the base exchanged and they not, loading them would be refused here."""
    adapters = Adapters.load(BUNDLED)
    sizes = [file.stat().st_size for folder in BUNDLED.values() for file in folder.glob("*.*")]
    assert sum(sizes) < 1_600_000
    # The examples of README, of `predict --help` and of the notebooks.
    win, see, way = "WINNER!! Claim your prize, call 09061701461", "see you at 8?", "I am on my way"
    mixed = adapters.classify_mixed(
        [win, see, way, "what time does the film start", way], 3 * ["spam"] + 2 * ["question"]
    )
    assert (mixed[:3, 1] > 0.9).tolist() == [True, False, False]
    assert (mixed[:3, 1] < 0.1).tolist() == [False, True, True]
    assert (mixed[3:, 1] > 0.5).tolist() == [True, False]


def test_a_message_is_read_as_in_the_training_of_its_task():
    """The question task was trained without question marks, so they must not decide here."""
    adapters = Adapters.load(BUNDLED)
    asked, plain = "Are you coming to the party?", "Are you coming to the party"
    mixed = adapters.mixed_logits([asked, plain] * 2, ["question"] * 2 + ["spam"] * 2)
    torch.testing.assert_close(mixed[0], mixed[1])
    assert not torch.allclose(mixed[2], mixed[3], atol=1e-3)
    adapters.use("question")
    one, other = adapters.classify([asked, plain])
    torch.testing.assert_close(one, other)


def test_adapters_of_one_shape_share_nothing_but_the_base(folders, monkeypatch):
    made = []
    real = adapter_files.outline
    monkeypatch.setattr(adapter_files, "outline", lambda *of: made.append(of) or real(*of))
    adapters = Adapters.load({"one": folders["everything"], "other": folders["everything"]})
    assert len(made) == 1
    one, other = adapters["one"], adapters["other"]
    for mine, theirs in [*zip(one.layers.values(), other.layers.values()), (one.head, other.head)]:
        assert mine.linear is theirs.linear or mine is one.head
        assert torch.equal(mine.lora.A, theirs.lora.A) and torch.equal(mine.lora.B, theirs.lora.B)
        with torch.no_grad():
            mine.lora.A.zero_()
        mine.train()
        assert theirs.lora.A.any() and not theirs.training and not theirs.lora.dropout.training
