"""The same random weights in our GPT-2 and in the one of `transformers`.

The mapping is written out here a second time, by hand, so that a mistake in `llm/formats/base.py`
cannot hide itself.
"""

import torch

from llm.model.config import GPTConfig
from llm.model.gpt import GPTModel

TINY = GPTConfig(vocab_size=61, context_length=24, emb_dim=32, n_heads=4, n_layers=3)
TINIES = {
    "gpt2": TINY,
    "gpt2-medium": GPTConfig(67, 16, 48, 6, 4),
    "gpt2-large": GPTConfig(71, 20, 40, 5, 5),
    "gpt2-xl": GPTConfig(73, 12, 35, 5, 6),  # an odd number of heads, as GPT-2 XL has 25
}


def random_model(config: GPTConfig = TINY, seed: int = 0, dtype=torch.float32) -> GPTModel:
    """A GPTModel in which every weight is random: biases and LayerNorms too."""
    model = GPTModel(config)
    randomise(model, seed)
    return model.to(dtype).eval()


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 0, std: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * std
        parameter.copy_(noise + 1 if name.endswith("scale") else noise)


def in_hf_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights or gradients of a GPTModel by the names, and in the layout, of transformers."""
    found = {
        "transformer.wte.weight": tensors["tok_emb.weight"],
        "transformer.wpe.weight": tensors["pos_emb.weight"],
        "transformer.ln_f.weight": tensors["final_norm.scale"],
        "transformer.ln_f.bias": tensors["final_norm.shift"],
    }
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("trf_blocks"))
    for i in range(layers):
        ours, theirs = f"trf_blocks.{i}.", f"transformer.h.{i}."
        for norm, ln in (("norm1", "ln_1"), ("norm2", "ln_2")):
            found[f"{theirs}{ln}.weight"] = tensors[f"{ours}{norm}.scale"]
            found[f"{theirs}{ln}.bias"] = tensors[f"{ours}{norm}.shift"]
        qkv = [f"{ours}att.W_{which}" for which in ("query", "key", "value")]
        found[f"{theirs}attn.c_attn.weight"] = torch.cat([tensors[f"{n}.weight"] for n in qkv]).T
        found[f"{theirs}attn.c_attn.bias"] = torch.cat([tensors[f"{n}.bias"] for n in qkv])
        for linear, conv in (
            ("att.out_proj", "attn.c_proj"),
            ("ff.fc1", "mlp.c_fc"),
            ("ff.fc2", "mlp.c_proj"),
        ):
            found[f"{theirs}{conv}.weight"] = tensors[f"{ours}{linear}.weight"].T
            found[f"{theirs}{conv}.bias"] = tensors[f"{ours}{linear}.bias"]
    return found


def hf_config(config: GPTConfig, **more):
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context_length,
        n_embd=config.emb_dim,
        n_head=config.n_heads,
        n_layer=config.n_layers,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=config.vocab_size - 1,
        eos_token_id=config.vocab_size - 1,
        **more,
    )


def hf_twin(model: GPTModel):
    """A transformers GPT2LMHeadModel with the same weights."""
    from transformers import GPT2LMHeadModel

    twin = GPT2LMHeadModel(hf_config(model.config)).to(model.tok_emb.weight.dtype).eval()
    state = {name: tensor.clone() for name, tensor in in_hf_names(model.state_dict()).items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    twin.load_state_dict(state)
    return twin


def random_ids(config: GPTConfig, batch: int, tokens: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (batch, tokens), generator=generator)
