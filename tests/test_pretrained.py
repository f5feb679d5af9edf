"""Loading weights: folders that transformers wrote, ours, damaged ones, and the hub."""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread

import pytest
import torch
from twins import TINIES, TINY, hf_config, hf_twin, in_hf_names, random_ids, random_model

from llm.data.hub import cached_folder, download
from llm.data.tokenizer import GPT2_VARIABLE, mini_tokenizer
from llm.formats import base as pretrained
from llm.formats.base import load_base, load_config, load_tokenizer
from llm.formats.transformers import config_to_transformers, to_transformers, write_tokenizer
from llm.model.config import PRESETS, GPTConfig
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint
from llm.utils.errors import InputError
from llm.utils.files import read_tensors, write_json, write_tensors

ROOT = Path(__file__).parents[1]


def same(left: GPTModel, right: GPTModel) -> bool:
    one, other = left.state_dict(), right.state_dict()
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def ours(folder, model=None) -> Path:
    model = model or random_model()
    write_json(folder / "config.json", model.config.to_dict())
    write_tensors(folder / "model.safetensors", model.state_dict())
    return folder


def theirs(folder, model=None) -> Path:
    """A folder in the format of transformers, to be spoilt by a test."""
    model = model or random_model()
    write_json(folder / "config.json", config_to_transformers(model.config))
    tensors = to_transformers(model.state_dict(), model.config)
    write_tensors(folder / "model.safetensors", tensors)
    return folder


# --- folders that transformers wrote ---


@pytest.mark.parametrize("preset", TINIES)
@pytest.mark.parametrize("kind", ["GPT2LMHeadModel", "GPT2Model"])  # with and without the prefix
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_every_kind_of_folder_that_transformers_writes(tmp_path, preset, kind, shard):
    model = random_model(TINIES[preset])
    twin = hf_twin(model)
    (twin if kind == "GPT2LMHeadModel" else twin.transformer).save_pretrained(
        tmp_path, max_shard_size=shard
    )
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    loaded = load_base(tmp_path)
    assert loaded.config == model.config == load_config(tmp_path)
    assert same(loaded, model)
    ids = random_ids(model.config, 2, model.config.context_length)
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids), twin(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_stored_masks_and_a_stored_output_layer(tmp_path, prefix):
    """As in the files on the hub: `attn.bias` is the causal mask of OpenAI's code."""
    model = random_model()
    theirs(tmp_path, model)
    tensors, _ = read_tensors(tmp_path / "model.safetensors")
    n = TINY.context_length
    for i in range(TINY.n_layers):
        tensors[f"h.{i}.attn.bias"] = torch.ones(n, n, dtype=torch.uint8).tril().view(1, 1, n, n)
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    stored = {prefix + name: tensor for name, tensor in tensors.items()}
    stored["lm_head.weight"] = tensors["wte.weight"].clone()
    write_tensors(tmp_path / "model.safetensors", stored)
    assert same(load_base(tmp_path), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(tmp_path, dtype):
    model = random_model().to(dtype)
    theirs(tmp_path, model)
    loaded = load_base(tmp_path)
    assert same(loaded, model.float())
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())


def test_our_own_folder(tmp_path):
    model = random_model()
    loaded = load_base(ours(tmp_path, model))
    assert same(loaded, model)
    assert loaded.config == TINY
    assert all(parameter.requires_grad for parameter in loaded.parameters())


# --- the real 124M shape ---

MEASURE = """
import sys
from pathlib import Path
from llm.formats.base import load_base
import safetensors.torch, torch

def peak():  # in bytes; unlike ru_maxrss it starts anew with this process
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

load_base(sys.argv[1])  # warm up
before = peak()
model = load_base(sys.argv[2])
print((peak() - before) / sum(p.nbytes for p in model.parameters()))
"""


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    from transformers import GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    model = load_base("gpt2", weights="random", seed=1)
    with torch.device("meta"):
        twin = GPT2LMHeadModel(hf_config(GPTConfig())).eval()
    state = in_hf_names(model.state_dict())
    state["lm_head.weight"] = state["transformer.wte.weight"]
    twin.load_state_dict({name: t.contiguous() for name, t in state.items()}, assign=True)
    twin.tie_weights()
    twin.save_pretrained(folder)
    ids = random_ids(GPTConfig(), 1, 12)
    with torch.no_grad():
        return folder, fingerprint(model), ids, twin(ids).logits


def test_gpt2_124m_from_a_folder_of_transformers(gpt2_folder):
    folder, expected, ids, logits = gpt2_folder
    model = load_base(folder)
    assert model.config == PRESETS["gpt2"]
    assert sum(p.numel() for p in model.parameters()) == 124_439_808
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(ids), logits, atol=1e-5, rtol=1e-5)
    assert fingerprint(model) == expected


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_loading_takes_at_most_1_2_times_the_model(gpt2_folder, tmp_path):
    small = str(theirs(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, small, str(gpt2_folder[0])],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert 0.9 < float(done.stdout) <= 1.2


# --- what is refused, in one line ---


def spoil(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors, _ = read_tensors(path)
    change(tensors)
    write_tensors(path, tensors)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.pop("h.1.ln_2.bias"), "missing: h.1.ln_2.bias$"),
        (lambda t: [t.pop(n) for n in list(t) if "ln_" in n], r"missing: h.0.*and 9 more$"),
        (lambda t: t.update({"score.weight": torch.ones(2)}), "not a part.*: score.weight$"),
        (
            lambda t: t.update({"h.0.attn.c_attn.weight": t["h.0.attn.c_attn.weight"].T}),
            r"another shape.*: h.0.attn.c_attn.weight \[96, 32\] \(not \[32, 96\]\)",
        ),
        (lambda t: t.update({"ln_f.bias": torch.ones(32, dtype=torch.int64)}), "ln_f.bias is I64"),
        (lambda t: t["h.2.mlp.c_fc.weight"][3].fill_(torch.nan), "h.2.mlp.c_fc.weight.*not finite"),
        (lambda t: t["wte.weight"][0, :1].fill_(-torch.inf), "wte.weight.*not finite"),
        (lambda t: t.update({"lm_head.weight": t["wte.weight"] + 1}), "lm_head.*differs from wte"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.ones(32)}), "are mixed"),
    ],
    ids=["missing", "many", "extra", "shape", "integers", "nan", "inf", "untied", "mixed"],
)
def test_spoilt_tensors_are_named(tmp_path, change, message):
    spoil(theirs(tmp_path), change)
    with pytest.raises(InputError, match=message) as caught:
        load_base(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_spoilt_folder_of_ours_is_named_by_our_names(tmp_path):
    spoil(ours(tmp_path), lambda tensors: tensors.pop("trf_blocks.0.att.W_key.bias"))
    with pytest.raises(InputError, match="missing: trf_blocks.0.att.W_key.bias"):
        load_base(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model_type": "llama"}, "model_type is 'llama'"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"n_inner": 7}, "n_inner is 7"),
        ({"n_head": 5}, "cannot be shared out over 5 heads"),
        ({"n_layer": "3"}, "n_layers must be a positive whole number"),
        ({"n_layer": None}, "n_layers"),
        ({"n_embd": None}, "emb_dim"),
    ],
)
def test_a_gpt2_that_computes_otherwise_is_refused(tmp_path, change, message):
    theirs(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", content | change)
    for load in (load_base, load_config):
        with pytest.raises(InputError, match=message):
            load(tmp_path)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(InputError, match="is neither a folder nor one of mini, gpt2"):
        load_base(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no config.json"):
        load_base(tmp_path)
    write_json(tmp_path / "run.json", {})
    with pytest.raises(InputError, match="is a fine-tuned folder") as raised:
        load_base(tmp_path)
    assert raised.value.settings == ("folder",)
    write_json(tmp_path / "config.json", {"hidden_size": 8})
    with pytest.raises(InputError, match="vocab_size, n_positions.* missing"):
        load_base(tmp_path)
    write_json(tmp_path / "config.json", TINY.to_dict())
    with pytest.raises(InputError, match="holds no model.safetensors$"):
        load_base(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match="save the model anew as safetensors"):
        load_base(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_base(tmp_path)


def test_a_truncated_file(tmp_path):
    path = ours(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is not a whole safetensors file"):
        load_base(tmp_path)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", 3])
def test_an_index_may_only_name_files_of_its_folder(tmp_path, name):
    (theirs(tmp_path) / "model.safetensors").unlink()
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"wte.weight": name}})
    with pytest.raises(InputError, match="does not name files of this folder"):
        load_base(tmp_path)


def test_a_missing_shard(tmp_path):
    hf_twin(random_model()).save_pretrained(tmp_path, max_shard_size="20KB")
    sorted(tmp_path.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(InputError, match="model-00002-of-.* does not exist"):
        load_base(tmp_path)


# --- random weights and the fingerprint ---


def test_random_weights_by_seed_leave_the_generator_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second, other = (load_base("mini", "random", seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, second)
    assert not same(first, other)
    assert first.config == PRESETS["mini"]


def test_random_weights_in_the_shape_of_a_folder(tmp_path):
    folder = theirs(tmp_path)
    assert load_base(folder, "random").config == TINY
    assert not same(load_base(folder, "random"), load_base(folder))


def test_weights_are_pretrained_or_random():
    with pytest.raises(InputError, match="pretrained or random"):
        load_base("mini", "learned")


def test_the_fingerprint_tells_any_change():
    model = random_model()
    known = fingerprint(model)
    assert known == fingerprint(model.state_dict()) == fingerprint(random_model())
    assert known == fingerprint(random_model().double().float())
    state = model.state_dict()
    changed = state | {"final_norm.shift": state["final_norm.shift"] + 1e-6}
    renamed = {name.replace("norm1", "norm3"): tensor for name, tensor in state.items()}
    reshaped = state | {"tok_emb.weight": state["tok_emb.weight"].view(-1)}
    assert len({known, *map(fingerprint, (changed, renamed, reshaped))}) == 4


# --- the bundled base ---


def bundle(folder, monkeypatch) -> Path:
    ours(folder, random_model(replace(TINY, n_layers=1)).half())
    manifest = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    write_json(folder / "manifest.json", manifest)
    monkeypatch.setattr(pretrained, "MINI_FOLDER", folder)
    return folder


def test_mini_is_read_as_float32_and_checked(tmp_path, monkeypatch):
    folder = bundle(tmp_path, monkeypatch)
    assert load_base("mini").tok_emb.weight.dtype == torch.float32
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="model.safetensors is damaged"):
        load_base("mini")


def test_without_mini_random_weights_are_advised(tmp_path, monkeypatch):
    (bundle(tmp_path, monkeypatch) / "manifest.json").unlink()
    with pytest.raises(InputError, match="start from random weights") as raised:
        load_base("mini")
    assert raised.value.settings == ("weights=random",)


# --- the hub, played by a server on this machine ---


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: small files itself, large ones by a redirect to a store."""

    files: dict[str, bytes] = {}
    ranges: list[str | None] = []  # that the store was asked for
    spoil = False
    break_after = 0  # bytes after which the store's first answer breaks off
    meet = None  # a barrier at which the questions about the weights wait for each other

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body: bool):
        where, _, name = self.path.removeprefix("/").rpartition("/")
        content = self.files.get(name)
        if content is None or where not in (
            "store",
            "openai-community/gpt2/resolve/main",
            f"openai-community/gpt2/resolve/{'0' * 40}",
        ):
            self.reply(404, b"", body)
        elif where == "store":
            start = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
            self.ranges.append(self.headers.get("Range"))
            content = content[:-1] + b"?" if self.spoil else content
            more = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
            stop = self.break_after if self.break_after and not start else None
            self.reply(206 if start else 200, content[start:], body, stop, **more)
        elif name == "model.safetensors":
            if self.meet:
                self.meet.wait(20)
            more = {
                "Location": f"http://localhost:{self.server.server_port}/store/{name}",
                "X-Repo-Commit": "0" * 40,
                "X-Linked-Etag": hashlib.sha256(content).hexdigest(),
                "X-Linked-Size": str(len(content)),
            }
            self.reply(302, b"", body, **more)
        else:
            etag = hashlib.sha1(content).hexdigest()
            self.reply(200, content, body, **{"X-Repo-Commit": "0" * 40, "ETag": f'"{etag}"'})

    def reply(self, status: int, content: bytes, body: bool, stop: int | None = None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:stop])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    folder = theirs(tmp_path_factory.mktemp("published"))
    write_tokenizer(mini_tokenizer(), folder, TINY.context_length)
    names = ("config.json", "model.safetensors", "vocab.json", "merges.txt")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def hub(published):
    Hub.files = published
    Hub.ranges, Hub.spoil, Hub.break_after, Hub.meet = [], False, 0, None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def use_hub(tmp_path, monkeypatch):
    """A cache of the test's own, and a hub; huggingface_hub has read its environment already."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def use(url: str, offline: bool = False):
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    return use


NOBODY = "http://127.0.0.1:9"  # nobody listens there


def test_download_then_load_without_a_network(hub, use_hub, tmp_path, monkeypatch):
    use_hub(hub)
    folder = download("gpt2")
    assert tmp_path / "cache" in folder.parents
    names = {"config.json", "merges.txt", "model.safetensors", "vocab.json"}
    assert {path.name for path in folder.iterdir()} == names
    use_hub(NOBODY, offline=True)
    monkeypatch.delenv(GPT2_VARIABLE, raising=False)
    assert download("gpt2") == cached_folder("gpt2") == folder
    assert load_base("gpt2").config.emb_dim == 32
    assert load_tokenizer("gpt2-xl").encode("a b") == mini_tokenizer().encode("a b")


def test_the_environment_says_where_files_come_from_and_go(hub, tmp_path):
    """huggingface_hub reads it once, so this takes a process of its own."""
    names = ("HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_OFFLINE")
    known = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", "from llm.data.hub import download; print(download('gpt2'))"],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=120,
        env={**known, "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub},
    )  # fmt: skip
    assert tmp_path / "home" in Path(done.stdout.strip()).parents


def test_a_broken_download_is_resumed(hub, use_hub, monkeypatch):
    from huggingface_hub import constants

    use_hub(hub)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is kept is kept in chunks
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before trying again
    Hub.break_after = 1000
    content = Hub.files["model.safetensors"]
    assert (download("gpt2") / "model.safetensors").read_bytes() == content
    assert Hub.ranges == [None, "bytes=1000-"]


def test_what_another_process_left_unfinished_does_no_harm(hub, use_hub, tmp_path):
    """Each download writes a file of its own; older versions of the library went on with this."""
    use_hub(hub)
    content = Hub.files["model.safetensors"]
    blobs = tmp_path / "cache" / "models--openai-community--gpt2" / "blobs"
    blobs.mkdir(parents=True)
    left = blobs / f"{hashlib.sha256(content).hexdigest()}.incomplete"
    left.write_bytes(b"?" * 1000)
    assert (download("gpt2") / "model.safetensors").read_bytes() == content


def test_two_downloads_at_once_fetch_the_weights_once(hub, use_hub):
    use_hub(hub)
    Hub.meet = Barrier(2)  # both are told to fetch the same file before either has it
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(download, ["gpt2", "gpt2"])
    content = Hub.files["model.safetensors"]
    assert first == second and (first / "model.safetensors").read_bytes() == content
    assert len(Hub.ranges) == 1


def test_a_file_that_comes_damaged_is_refused_and_not_kept(hub, use_hub, tmp_path):
    use_hub(hub)
    Hub.spoil = True
    with pytest.raises(InputError, match="^model.safetensors of openai-community/gpt2 came damag"):
        download("gpt2")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_symlink()]
    assert not list((tmp_path / "cache").rglob("blobs/*"))
    Hub.spoil = False
    assert same(load_base(download("gpt2")), random_model())


def test_a_damaged_file_whose_check_was_cut_short_is_not_used(hub, use_hub, monkeypatch):
    """The weights are fetched first, so a kill before their check leaves no complete folder."""
    use_hub(hub)
    Hub.spoil = True
    with monkeypatch.context() as cut:
        cut.setattr("llm.data.hub.sha256_of_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download("gpt2")
    with pytest.raises(InputError, match="not here yet"):
        load_base("gpt2")
    with pytest.raises(InputError, match="came damaged"):
        download("gpt2")


def interrupted(path):
    raise KeyboardInterrupt


def test_what_is_there_is_not_asked_for_again(hub, use_hub):
    use_hub(hub)
    folder = download("gpt2")
    use_hub(NOBODY)
    assert download("gpt2") == folder


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_one_line_says_what_to_do(use_hub, offline):
    use_hub(NOBODY, offline)
    with pytest.raises(
        InputError, match="^cannot download gpt2 .*the model `mini` works"
    ) as caught:
        download("gpt2")
    assert "\n" not in str(caught.value)


def test_gpt2_that_was_not_downloaded(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="weights of gpt2 are not here yet") as caught:
        load_base("gpt2")
    assert (caught.value.command, caught.value.settings) == ("download gpt2", ("model=mini",))
    with pytest.raises(InputError, match="not here yet"):
        cached_folder("gpt2-xl")


def test_only_published_models_can_be_downloaded():
    with pytest.raises(InputError, match="choose from gpt2, gpt2-medium"):
        download("gpt3")
