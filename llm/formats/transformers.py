"""How `transformers` names, shapes and describes a GPT-2: the table for reading and writing it.

Two things differ. `transformers` keeps OpenAI's fused layer, in which query, key and value are one
matrix (`c_attn`), and it keeps OpenAI's `Conv1D`, whose weight is (in, out) where `nn.Linear` has
(out, in). So its `c_attn.weight` is our three weights one below the other, transposed.
"""

import re
from pathlib import Path

import torch

from llm.data.bpe import SPLIT_PATTERN
from llm.data.tokenizer import END_OF_TEXT, Tokenizer, bytes_to_characters
from llm.lora.inject import merged_state
from llm.model.classifier import GPTClassifier
from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError
from llm.utils.files import make_folder, write_json, write_tensors, write_text

# The Conv1D layers of a block of transformers -> the Linear layers of ours.
CONV1D = {
    "attn.c_attn": ("att.W_query", "att.W_key", "att.W_value"),
    "attn.c_proj": ("att.out_proj",),
    "mlp.c_fc": ("ff.fc1",),
    "mlp.c_proj": ("ff.fc2",),
}
_NORMS = {"ln_1": "norm1", "ln_2": "norm2"}
_SIZES = {
    "vocab_size": "vocab_size",
    "n_positions": "context_length",
    "n_embd": "emb_dim",
    "n_head": "n_heads",
    "n_layer": "n_layers",
}
# What may vary in a GPT-2 of transformers and does not in ours: the setting and its fixed values.
_FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
# Old files hold the causal mask of each block. It is no weight: attention makes its own.
_MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def name_table(config: GPTConfig) -> dict[str, list[str]]:
    """Each tensor of transformers' GPT2Model -> the tensors of our GPTModel that make it up."""
    table = {
        "wte.weight": ["tok_emb.weight"],
        "wpe.weight": ["pos_emb.weight"],
        "ln_f.weight": ["final_norm.scale"],
        "ln_f.bias": ["final_norm.shift"],
    }
    for index in range(config.n_layers):
        theirs, ours = f"h.{index}", f"trf_blocks.{index}"
        for norm, name in _NORMS.items():
            table[f"{theirs}.{norm}.weight"] = [f"{ours}.{name}.scale"]
            table[f"{theirs}.{norm}.bias"] = [f"{ours}.{name}.shift"]
        for conv, names in CONV1D.items():
            for kind in ("weight", "bias"):
                table[f"{theirs}.{conv}.{kind}"] = [f"{ours}.{name}.{kind}" for name in names]
    return table


def is_transposed(name: str) -> bool:
    """Whether a tensor of transformers is stored (in, out), as Conv1D does."""
    layer, _, kind = name.rpartition(".")
    return kind == "weight" and any(layer.endswith(conv) for conv in CONV1D)


def is_mask(name: str) -> bool:
    """Whether a stored tensor, without its `transformer.` prefix, is a causal mask."""
    return _MASK.fullmatch(name) is not None


def to_transformers(state: dict[str, torch.Tensor], config: GPTConfig) -> dict[str, torch.Tensor]:
    """Tensors of a GPTModel by the names, and in the layout, of transformers' GPT2Model."""
    found = {}
    for name, parts in name_table(config).items():
        tensor = torch.cat([state[part] for part in parts])
        found[name] = tensor.T.contiguous() if is_transposed(name) else tensor
    return found


def config_to_transformers(config: GPTConfig) -> dict:
    """The `config.json` of transformers for a shape of ours."""
    sizes = {theirs: getattr(config, ours) for theirs, ours in _SIZES.items()}
    dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.drop_rate)
    fixed = {name: values[0] for name, values in _FIXED.items()}
    return {"model_type": "gpt2", **sizes, "n_inner": None, **dropout, **fixed}


def config_from_transformers(content: dict, where: str) -> GPTConfig:
    """Our shape for a `config.json` of transformers. Dropout is left at 0: it is for training.

    Raises:
        InputError: it describes another kind of model, or a GPT-2 that computes differently.
    """
    if content.get("model_type", "gpt2") != "gpt2":
        raise InputError(f"{where}: model_type is {content['model_type']!r}; only gpt2 can be read")
    missing = [name for name in _SIZES if name not in content]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing; is it the config of a GPT-2?")
    for name, allowed in _FIXED.items():
        value = content.get(name, allowed[0])
        if value not in allowed:
            raise InputError(f"{where}: {name} is {value!r}; GPT-2 here has {allowed[0]!r}")
    config = GPTConfig(**{ours: content[theirs] for theirs, ours in _SIZES.items()})
    if content.get("n_inner") not in (None, 4 * config.emb_dim):
        raise InputError(f"{where}: n_inner is {content['n_inner']}; GPT-2 has 4 * n_embd")
    return config


# Writing -----------------------------------------------------------------------------------------


def export_transformers(
    model: GPTModel | GPTClassifier,
    tokenizer: Tokenizer,
    folder: str | Path,
    labels: list[str] | None = None,
) -> None:
    """Write `config.json`, `model.safetensors` and the tokenizer's files.

    A GPTModel becomes a GPT2LMHeadModel, a GPTClassifier a GPT2ForSequenceClassification, for
    `pipeline("text-classification", FOLDER)`. The model itself is not changed.

    Args:
        labels: names of the classes, in the order of the head's outputs. With a GPTModel, of the
            classes that adapters on it are to tell apart.

    Raises:
        InputError: the folder cannot be written, labels that do not fit, or a head whose bias
            cannot be carried.
    """
    state = merged_state(model)
    config = config_to_transformers(model.config)
    end = {f"{kind}_token_id": tokenizer.eot_id for kind in ("bos", "eos", "pad")}
    config |= {"dtype": "float32", **end}
    if isinstance(model, GPTClassifier):
        labels = labels or [f"LABEL_{index}" for index in range(model.n_classes)]
        if len(labels) != model.n_classes:
            raise InputError(f"{model.n_classes} classes need as many labels, not {len(labels)}")
        config["architectures"] = ["GPT2ForSequenceClassification"]
        body = {
            name.removeprefix("body."): tensor
            for name, tensor in state.items()
            if name.startswith("body.")
        }
        shift = bias_as_shift(state["head.weight"], state["head.bias"])
        body["final_norm.shift"] = body["final_norm.shift"] + shift
        more = {"score.weight": state["head.weight"]}
    else:
        config["architectures"] = ["GPT2LMHeadModel"]
        body, more = state, {}
    if labels:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    tensors = to_transformers({name: t.float() for name, t in body.items()}, model.config)
    tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()} | more
    folder = make_folder(folder)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
    write_tokenizer(tokenizer, folder, model.config.context_length)
    write_json(folder / "config.json", config)


def bias_as_shift(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The shortest d with W d = b, for a head's weight (n_classes, emb_dim) and bias.

    Raises InputError where there is none, because the rows of W depend on one another.
    """
    weight, bias = weight.detach().double(), bias.detach().double()
    shift = torch.linalg.pinv(weight) @ bias  # (emb_dim,)
    if not torch.allclose(weight @ shift, bias, rtol=1e-6, atol=1e-7):
        raise InputError(
            "the head's bias cannot be carried to transformers: its rows depend on one another"
        )
    return shift.float()


def write_tokenizer(tokenizer: Tokenizer, folder: str | Path, context_length: int) -> None:
    """Write a vocabulary as the files that `GPT2TokenizerFast` and `AutoTokenizer` load.

    Raises InputError for a vocabulary that does not split text as GPT-2 does.
    """
    if tokenizer.pattern != SPLIT_PATTERN:
        raise InputError(f"vocabulary {tokenizer.name} does not split text as GPT-2 does")
    character = bytes_to_characters()

    def written(token: bytes) -> str:
        return "".join(character[byte] for byte in token)

    ordered = sorted(tokenizer.ranks, key=tokenizer.ranks.get)
    pairs = [merge_of(token, tokenizer.ranks) for token in ordered if len(token) > 1]
    lines = [f"{written(left)} {written(right)}\n" for left, right in pairs]
    vocabulary = {written(token): tokenizer.ranks[token] for token in ordered}
    folder = make_folder(folder)
    write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(lines))
    write_json(folder / "vocab.json", vocabulary | {END_OF_TEXT: tokenizer.eot_id})
    special = dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), END_OF_TEXT)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "GPT2Tokenizer",
            "model_max_length": context_length,
            "padding_side": "right",
            "truncation_side": "right",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            # "<|endoftext|>" in a message is thirteen characters there too, see Tokenizer
            "split_special_tokens": True,
            **special,
        },
    )


def merge_of(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that a longer token was merged from.

    tiktoken's ranks keep the order of the merges but not their halves. Splitting the token with
    the merges that came before its own leaves exactly the two.
    """
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        pairs = range(len(parts) - 1)
        first = min(pairs, key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts[0], parts[1]
