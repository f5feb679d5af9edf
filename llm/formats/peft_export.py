"""A LoRA adapter as the file pair of `peft`; `llm.formats.peft_import` reads such a pair.

GPT-2 in `transformers` has query, key and value in one layer, `c_attn`, so three LoRA layers of
ours are one of theirs. With x (1, in), our A (in, r) and B (r, out), the fused update is

                                | B_q  0    0  |
    x [A_q | A_k | A_v]         |  0  B_k   0  |         of rank 3 r.
                                |  0   0   B_v |

A classifier becomes a SEQ_CLS adapter, a model that writes a CAUSAL_LM adapter: the same names,
and no head, because GPT-2's output is its token embedding, which LoRA leaves alone.

DoRA's magnitudes, a number an output, stand one after the other: the norm of a fused row is that of
the row it was. Where one of the three has no DoRA layer, its magnitudes are the lengths of its rows
of W, which change nothing. (Trained on by `peft`, with dropout, the two are no longer the same
run: the fused layer has one mask for all three, and the zeros in B may fill in.)

The scale alpha / rank must stay, so its alpha is 3 alpha (with rsLoRA, sqrt(3) alpha); `peft` takes
the exceptions in `rank_pattern` and `alpha_pattern`. It stores A as (r, in) and B as (out, r), both
transposed to ours.
"""

import math
from collections import Counter
from pathlib import Path

import torch

from llm.data.tokenizer import Tokenizer
from llm.formats.transformers import CONV1D, bias_as_shift, write_tokenizer
from llm.lora.dora import LinearWithDoRA
from llm.lora.inject import lora_layers, merged_state
from llm.lora.layer import LinearWithLoRA, dense
from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError
from llm.utils.files import make_folder, write_json, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of each tensor's name
TASK_TYPES = ("SEQ_CLS", "CAUSAL_LM")  # of a classifier, of a model that writes


def export_peft(
    model: GPTClassifier | GPTModel,
    folder: str | Path,
    base: str,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write a LoRA-adapted model as `adapter_config.json` and `adapter_model.safetensors`.

    A classifier's head is saved whole as `score`, and its bias in the final LayerNorm `ln_f` (see
    `llm.formats.transformers`), which therefore stands in `modules_to_save` too.

    Args:
        model: with LoRA layers, not merged. It is not changed.
        base: what `transformers` finds the base by: "openai-community/gpt2", or a folder.
        tokenizer: written beside the adapter where it is given. Without it, peft's
            `AutoPeftModelForCausalLM` asks the hub for one.

    Raises:
        InputError: no LoRA layers, merged ones, or a folder that cannot be written.
    """
    layers = lora_layers(model)
    if not layers:
        raise InputError("the model has no LoRA layers; export it for transformers instead")
    if any(layer.merged for layer in layers.values()):
        raise InputError("the LoRA layers are merged; unmerge them before exporting for peft")
    first = next(iter(layers.values()))
    body = "body." if isinstance(model, GPTClassifier) else ""
    tensors, settings = {}, {}
    for index in range(model.config.n_layers):
        for conv, names in CONV1D.items():
            parts = [model.get_submodule(f"{body}trf_blocks.{index}.{name}") for name in names]
            if any(isinstance(part, LinearWithLoRA) for part in parts):
                name = f"h.{index}.{conv}"
                A, B, settings[name] = _fuse(parts)
                tensors |= {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
                if isinstance(first, LinearWithDoRA):
                    tensors[f"{name}.lora_magnitude_vector"] = torch.cat(
                        list(map(row_lengths, parts))
                    )
    saved_whole = []
    if body:
        state = merged_state(model)  # of the head, in case it is adapted too
        shift = bias_as_shift(state["head.weight"], state["head.bias"])
        tensors["ln_f.weight"] = state["body.final_norm.scale"]
        tensors["ln_f.bias"] = state["body.final_norm.shift"] + shift
        saved_whole = ["score", "ln_f"]
    tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    if body:
        tensors["score.weight"] = state["head.weight"]

    if not settings:
        raise InputError("only the head has a LoRA layer; export it for transformers instead")
    settings = _summed_up(settings, model.config.n_layers)
    (rank, alpha), _ = Counter(settings.values()).most_common(1)[0]
    config = {
        "peft_type": "LORA",
        "task_type": TASK_TYPES[not body],
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: r for name, (r, _) in settings.items() if r != rank},
        "alpha_pattern": {name: a for name, (_, a) in settings.items() if a != alpha},
        "target_modules": list(settings),
        "modules_to_save": saved_whole or None,
        "lora_dropout": first.lora.dropout.p,
        "use_rslora": first.lora.rslora,
        "use_dora": isinstance(first, LinearWithDoRA),
        "fan_in_fan_out": True,  # Conv1D
        "bias": "none",
        "inference_mode": True,
    }
    folder = make_folder(folder)
    tensors = {PREFIX + name: tensor.detach().float() for name, tensor in tensors.items()}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, model.config.context_length)
    write_json(folder / CONFIG, config)


def _fuse(parts: list) -> tuple[torch.Tensor, torch.Tensor, tuple[int, float]]:
    """A, B and (rank, alpha) in peft's layout, for the layers that make up one Conv1D.

    Of a layer without LoRA the rows of B are zeros.
    """
    there = [part.lora for part in parts if isinstance(part, LinearWithLoRA)]
    scale = there[0].scale
    A = torch.cat([lora.factors()[0] for lora in there], dim=1).T  # (rank in all, in)
    rows = [getattr(part, "linear", part).out_features for part in parts]
    B = A.new_zeros(sum(rows), len(A))  # (out in all, rank in all)
    row = column = 0
    for part, size in zip(parts, rows, strict=True):
        if isinstance(part, LinearWithLoRA):
            block = part.lora.factors()[1].T * (part.lora.scale / scale)  # 1 where scales agree
            B[row : row + size, column : column + block.shape[1]] = block
            column += block.shape[1]
        row += size
    factor = math.sqrt(len(A)) if there[0].rslora else len(A)
    alpha = scale * factor
    return A, B, (len(A), tidy(alpha))


def row_lengths(part) -> torch.Tensor:
    """The magnitudes of a DoRA layer, (out,); of a plain one the lengths of its rows."""
    if isinstance(part, LinearWithDoRA):
        return part.lora.magnitude
    return torch.linalg.vector_norm(dense(part), dim=1, dtype=torch.float32)


def tidy(alpha: float) -> float | int:
    """16 for 16.000000000000004."""
    return round(alpha) if math.isclose(alpha, round(alpha)) else alpha


def _summed_up(settings: dict[str, tuple], n_layers: int) -> dict[str, tuple]:
    """`attn.c_attn` for all blocks where they agree, `h.0.attn.c_attn`, ... where they do not."""
    found = {}
    for conv in CONV1D:
        mine = {name: value for name, value in settings.items() if name.endswith(conv)}
        alike = len(mine) == n_layers and len(set(mine.values())) == 1
        found |= {conv: next(iter(mine.values()))} if alike else mine
    return found
