"""How `transformers` names, shapes and describes a GPT-2: the table for reading and writing it.

Two things differ. `transformers` keeps OpenAI's fused layer, in which query, key and value are one
matrix (`c_attn`), and it keeps OpenAI's `Conv1D`, whose weight is (in, out) where `nn.Linear` has
(out, in). So its `c_attn.weight` is our three weights one below the other, transposed.
"""

import re

import torch

from llm.config import GPTConfig
from llm.errors import InputError

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
