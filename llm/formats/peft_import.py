"""A LoRA adapter that `peft` trained on GPT-2, put onto our classifier or language model.

The fused layer `c_attn` of `transformers` has one A for query, key and value together, which
becomes the A of all three, and one B, which is cut in three (see `llm.formats.peft_export`), and
so are DoRA's magnitudes. The rank stays. Of a classifier (SEQ_CLS) `peft` trains the head itself,
and sometimes the final LayerNorm; both end up in our head. A language model (CAUSAL_LM) has none.
"""

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch

from llm.formats.peft_export import CONFIG, PREFIX, TASK_TYPES, WEIGHTS, row_lengths, tidy
from llm.formats.transformers import CONV1D
from llm.lora.inject import lora_layers, replace_linear_with_lora
from llm.lora.layer import dense
from llm.lora.placement import block_of
from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.utils.errors import InputError
from llm.utils.files import read_json, read_tensors

_MAGNITUDE = "magnitude_vector"
_FACTOR = re.compile(
    rf"(h\.(\d+)\.(?:attn|mlp)\.c_\w+)\.lora_([AB](?=\.weight)|{_MAGNITUDE}$)(?:\.weight)?"
)
# Ways to start A and B that leave W as it is; the others change the base beneath the adapter.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


class Update(NamedTuple):
    """What an adapter says of one of our layers, in our layout."""

    A: torch.Tensor  # (in, rank)
    B: torch.Tensor  # (rank, out)
    scale: float
    magnitude: torch.Tensor | None  # (out,) of DoRA


def import_peft(model: GPTClassifier | GPTModel, folder: str | Path) -> dict:
    """Put an adapter that `peft` trained on GPT-2 onto our model, in place.

    Args:
        model: a GPTClassifier for SEQ_CLS, a GPTModel for CAUSAL_LM; on the same base, without
            LoRA layers. `peft` does not tell one base from another, so that is the caller's to
            see to.

    Returns:
        the settings that `replace_linear_with_lora` was called with. Where the adapter's layers
        differ in rank, the smaller ones are filled up with zeros; where they differ in scale, B
        takes up the difference.

    Raises:
        InputError: not a pair of files of `peft`, an adapter for another task, a kind that is
            neither plain LoRA nor DoRA, or tensors that do not fit. The model is not changed then.
    """
    folder = Path(folder)
    if lora_layers(model):
        raise InputError("the model has LoRA layers already; import onto the base alone")
    config = _read_config(folder / CONFIG)
    classifies = isinstance(model, GPTClassifier)
    task, wanted = config.get("task_type"), TASK_TYPES[not classifies]
    if task not in (None, wanted):
        raise InputError(f"{folder / CONFIG}: task_type is {task!r}; this model takes {wanted}")
    dora = bool(config.get("use_dora"))
    factors, rest = _read_factors(folder / WEIGHTS, dora)
    if classifies:
        head, bias = _read_head(rest, model, folder / WEIGHTS)
    elif rest:
        name = sorted(rest)[0]
        raise InputError(f"{folder / WEIGHTS}: {name} cannot be read; only LoRA layers can")
    rslora = bool(config.get("use_rslora"))
    updates: dict[str, Update] = {}
    for name, pair in factors.items():
        updates |= _cut(name, pair, _scale(name, len(pair["A"]), config), model, folder / WEIGHTS)

    ranks: dict[str, int] = {}  # by kind of layer: the largest of its blocks
    for name, update in updates.items():
        kind = name.rpartition(".")[2]
        ranks[kind] = max(ranks.get(kind, 0), update.A.shape[1])
    rank = max(ranks.values())
    blocks = sorted({block_of(name) for name in updates})
    common = Counter(update.scale for update in updates.values()).most_common(1)[0][0]
    settings = {
        "rank": rank,
        "alpha": tidy(common * (math.sqrt(rank) if rslora else rank)),
        "targets": [
            name
            for names in CONV1D.values()
            for name in (full.rpartition(".")[2] for full in names)
            if name in ranks
        ],
        "dropout": float(config.get("lora_dropout") or 0.0),
        "rslora": rslora,
        "variant": "dora" if dora else "lora",
        "layers": blocks if len(blocks) < model.config.n_layers else None,
        "rank_pattern": {name: its for name, its in ranks.items() if its != rank},
    }
    replace_linear_with_lora(model, **settings)
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            if name in updates:
                A, B, scale, magnitude = updates[name]
                layer.lora.A[:, : A.shape[1]] = A
                layer.lora.B[: len(B)] = B * (scale / layer.lora.scale)
                if magnitude is not None:
                    layer.lora.magnitude.copy_(magnitude)
        if classifies:
            model.head.weight.copy_(head)
            model.head.bias.copy_(bias)
    return settings


def task_type(folder: str | Path) -> str:
    """What an adapter of peft's is for: `SEQ_CLS` or `CAUSAL_LM`. Raises InputError else."""
    path = Path(folder) / CONFIG
    found = _read_config(path).get("task_type")
    if found not in TASK_TYPES:
        raise InputError(f"{path}: task_type is {found!r}; {' and '.join(TASK_TYPES)} can be read")
    return found


def _read_config(path: Path) -> dict:
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}; only LORA can be read")
    for name in (
        "lora_bias",
        "use_qalora",
        "megatron_config",
        "trainable_token_indices",
    ):
        if config.get(name):
            raise InputError(f"{path}: {name} is set; only plain LoRA and DoRA can be read")
    if config.get("bias", "none") != "none":
        raise InputError(f"{path}: bias is {config['bias']!r}; only 'none' can be read")
    if config.get("init_lora_weights") not in _STARTS:
        raise InputError(
            f"{path}: init_lora_weights {config['init_lora_weights']!r} changes the base; convert "
            "the adapter to plain LoRA with peft first"
        )
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise InputError(f"{path}: lora_alpha must be a number above 0, not {alpha!r}")
    return config


def _read_factors(path: Path, dora: bool) -> tuple[dict[str, dict], dict[str, torch.Tensor]]:
    """A and B, and DoRA's magnitudes, by the name of their Conv1D; and all other tensors."""
    tensors, _ = read_tensors(path)
    factors: dict[str, dict[str, torch.Tensor]] = {}
    rest = {}
    for name, tensor in tensors.items():
        name = name.removeprefix(PREFIX).removeprefix("transformer.")
        if not tensor.is_floating_point() or not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} holds values that are not finite numbers")
        match = _FACTOR.fullmatch(name)
        if match:
            factors.setdefault(match[1], {})[match[3]] = tensor.float()
        else:
            rest[name] = tensor.float()
    for name, parts in factors.items():
        if not {"A", "B"} <= set(parts):
            raise InputError(f"{path}: lora_A or lora_B of {name} is missing")
        if (_MAGNITUDE in parts) != dora:
            state = "missing" if dora else "there, though use_dora is not set"
            raise InputError(f"{path}: lora_{_MAGNITUDE} of {name} is {state}")
    if not factors:
        raise InputError(f"{path} holds no LoRA update of a GPT-2")
    return factors, rest


def _read_head(rest: dict, model: GPTClassifier, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of our head, for their `score` and, where it was trained, their `ln_f`.

    With n the normalised token, s and t the base's scale and shift, W (n s' + t') is to be
    W' (n s + t) + b'. So W' = W s' / s, b' = W t' - W' t, and the base stays as it is.
    """
    score = rest.pop("score.weight", None)
    scale, shift = rest.pop("ln_f.weight", None), rest.pop("ln_f.bias", None)
    if rest:
        raise InputError(f"{path}: {sorted(rest)[0]} cannot be read; only LoRA, score and ln_f can")
    if score is None:
        raise InputError(
            f"{path} holds no score.weight, the trained head; save it with the adapter"
        )
    if score.shape != model.head.weight.shape:
        found, wanted = list(score.shape), list(model.head.weight.shape)
        raise InputError(f"{path}: score.weight has shape {found}, not {wanted}")
    if scale is None and shift is None:
        return score, torch.zeros(len(score))
    norm = model.body.final_norm
    for tensor in (scale, shift):
        if tensor is None or tensor.shape != norm.scale.shape:
            raise InputError(f"{path}: ln_f does not fit the model's width {len(norm.scale)}")
    s, t = norm.scale.detach().double().cpu(), norm.shift.detach().double().cpu()
    if s.eq(0).any():
        raise InputError(
            f"{path}: the base's ln_f has a scale of 0, so another cannot be folded in"
        )
    weight = score.double() * (scale.double() / s)
    return weight.float(), (score.double() @ shift.double() - weight @ t).float()


def _scale(name: str, rank: int, config: dict) -> float:
    """What peft multiplies a layer's update by: alpha / rank, with its exceptions by name."""
    alpha = config["lora_alpha"]
    for key, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", f"transformer.{name}"):
            alpha = value
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _cut(name: str, pair: dict, scale: float, model: GPTClassifier | GPTModel, path: Path) -> dict:
    """The update of a Conv1D as updates of our layers.

    Of a fused update that we exported, each part has only its own columns in B; the others, zeros,
    are left out, and so is a part of zeros alone, if its rows have the lengths they had. That
    brings back the ranks it was made from.
    """
    _, index, conv = name.split(".", 2)
    body = getattr(model, "body", model)
    names = [f"trf_blocks.{index}.{part}" for part in CONV1D.get(conv, ())]
    if not names or int(index) >= model.config.n_layers:
        raise InputError(f"{path}: the model has no layer {name}")
    linears = [body.get_submodule(part) for part in names]
    shapes = [dense(linear).shape for linear in linears]  # (out, in) each
    rows, inputs = [out for out, _ in shapes], shapes[0][1]
    A, B = pair["A"], pair["B"]  # (rank, in), (out in all, rank)
    if A.dim() != 2 or B.shape != (sum(rows), len(A)) or A.shape[1] != inputs:
        raise InputError(
            f"{path}: {name} has lora_A {list(A.shape)} and lora_B {list(B.shape)}, which do not "
            f"fit a layer of {inputs} inputs and {sum(rows)} outputs"
        )
    magnitude = pair.get(_MAGNITUDE)
    if magnitude is not None and magnitude.shape != (sum(rows),):
        found = list(magnitude.shape)
        raise InputError(
            f"{path}: lora_{_MAGNITUDE} of {name} has shape {found}, not {[sum(rows)]}"
        )
    magnitudes = [None] * len(rows) if magnitude is None else magnitude.split(rows)
    updates = {}
    for part, linear, block, m in zip(names, linears, B.split(rows), magnitudes, strict=True):
        used = block.ne(0).any(0)
        if not used.any() and (B.eq(0).all() or _is_stretched(linear, m)):
            used = torch.ones(len(A), dtype=torch.bool)
        if used.any():
            full = part if body is model else f"body.{part}"
            updates[full] = Update(A[used].T, block[:, used].T, scale, m)
    return updates


def _is_stretched(linear, magnitude: torch.Tensor | None) -> bool:
    """Whether DoRA gives the rows of W other lengths than they have."""
    if magnitude is None:
        return False
    lengths = row_lengths(linear).detach().cpu()
    return not torch.allclose(magnitude, lengths, rtol=1e-6, atol=0)
