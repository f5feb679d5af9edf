"""A model for use with `transformers`: a folder that its `from_pretrained` loads.

Two things need thought. LoRA layers are folded into their W, since `transformers` knows none
(`llm.peft_format` keeps them apart). And the classifier head of `transformers` has no bias. Ours
has, and it is carried exactly: with n the normalised token before the last shift t, and a vector d
for which W d = b,

    W (n + t) + b  =  W (n + t + d),

so the final LayerNorm's shift takes d up.
"""

from pathlib import Path

import torch

from llm.bpe import SPLIT_PATTERN
from llm.classifier import GPTClassifier
from llm.errors import InputError
from llm.files import make_folder, write_json, write_tensors, write_text
from llm.gpt import GPTModel
from llm.lora import merged_state
from llm.tokenizer import END_OF_TEXT, Tokenizer, bytes_to_characters
from llm.transformers_format import config_to_transformers, to_transformers


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
