"""Chapter 5. Architecture: the parts of a GPT-2, their shapes, and where its parameters sit

A GPT-2 is a short list of parts: a table of token embeddings, a table of position embeddings, a
stack of identical blocks, and a last LayerNorm. A block is attention (chapter 4), in which tokens
talk to each other, and a small two-layer network, in which each token thinks by itself; both *add*
their output to what was there, so a straight path leads from the first embedding to the last
layer. The output layer is the token embedding once more, read the other way round.

You will see the shape of every step of a real run, LayerNorm and GELU written out beside the
kernels, and how many parameters each part has, for `mini` and for all published sizes: 124,439,808
for the smallest. Counting takes no memory: on PyTorch's "meta" device a tensor has a shape but no
numbers.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from gpt2_plots import parameters_by_part_figure
from lesson import lesson, listing, save, say, section, show, try_next

from llm.model.blocks import GELU, LayerNorm, gelu_step_by_step, layer_norm_step_by_step
from llm.model.config import PRESETS
from llm.model.gpt import GPTModel
from llm.model.parameters import parameter_counts

PARTS = {  # a piece of a parameter's name -> the part it belongs to
    "tok_emb": "token embedding",
    "pos_emb": "position embedding",
    ".att.": "attention",
    ".ff.": "feed-forward",
    "norm": "LayerNorm",
}


def teach(options):
    with torch.no_grad():
        shapes()
        layer_norm_and_gelu()
        the_straight_path()
    parameters(options.out)
    try_next(
        "in shapes, give 513 tokens: one error line, because position 513 has no embedding.",
        "in the_straight_path, count the signal after each block of PRESETS['gpt2'] (12 blocks, "
        "500 MB of random weights): it still grows slowly, thanks to the narrower start of the "
        "layers that add to the path.",
        "work out by hand why a block has 12 * width * width weights and few more, then predict "
        "gpt2-xl's 1,557,611,200 from 48 blocks of width 1,600.",
    )


def shapes():
    section("Shapes through the model")
    config = PRESETS["mini"]
    say(
        f"mini has {config.n_layers} blocks of width {config.emb_dim}. Two rows of 16 token ids go "
        "in. A hook on every part notes what comes out, for the embeddings, the first block and "
        "the end:"
    )
    model = GPTModel(config).eval()
    rows = []
    for name, module in model.named_modules():
        first_block = name.startswith("trf_blocks.0")
        if name and (first_block or "." not in name) and not isinstance(module, torch.nn.Dropout):
            module.register_forward_hook(
                lambda module, inputs, output, name=name: rows.append(
                    (name, type(module).__name__, str(tuple(output.shape)))
                )
            )
    logits = model(torch.randint(config.vocab_size, (2, 16)))
    rows.append(("logits", "hidden @ tok_emb.T", str(tuple(logits.shape))))
    show(["part", "kind", "output shape"], rows)
    say("The last one is a score for each of 8,192 tokens, at each of 16 positions, in 2 rows.")


def layer_norm_and_gelu():
    section("LayerNorm and GELU, written out")
    x = 5 * torch.randn(4, 256) + 3  # 4 tokens
    norm = LayerNorm(256)
    y = norm(x)
    say("LayerNorm gives every token mean 0 and variance 1, whatever came in:")
    show(
        ["token", "mean before", "variance before", "mean after", "variance after"],
        [
            (i + 1, *(f"{value:.3f}" for value in stats))
            for i, stats in enumerate(
                zip(x.mean(1), x.var(1, unbiased=False), y.mean(1).abs(), y.var(1, unbiased=False))
            )
        ],
    )
    written_out = layer_norm_step_by_step(x, norm.scale, norm.shift)
    points = torch.tensor([-3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0])
    gelu_difference = (gelu_step_by_step(x) - GELU()(x)).abs().max()
    listing(
        f"written out against the kernel  {(written_out - y).abs().max():.1e} at most",
        f"GELU the same                   {gelu_difference:.1e} at most",
    )
    say("GELU bends: it passes large numbers, silences small ones, with no corner in between:")
    show(["x", "GELU(x)"], [(float(p), round(float(g), 3)) for p, g in zip(points, GELU()(points))])


def the_straight_path():
    section("The straight path")
    config = PRESETS["mini"]
    say(
        "Each block adds to its input. The size (standard deviation) of the numbers on the path, "
        "and how much of the embeddings can still be found in them (cosine):"
    )
    model = GPTModel(config).eval()
    ids = torch.randint(config.vocab_size, (8, 64))
    x = start = model.embed(ids, torch.arange(64))  # (8, 64, emb_dim)
    rows = [("embeddings", float(x.std()), 1.0)]
    for index, block in enumerate(model.trf_blocks):
        x = block(x)
        cosine = torch.cosine_similarity(start, x, dim=-1).mean()
        rows.append((f"after block {index}", float(x.std()), float(cosine)))
    show(["", "size", "cosine with the embeddings"], rows)


def parameters(out):
    section("Parameters by part")
    parts = {name: by_part(name) for name in PRESETS}
    names = list(PARTS.values())
    show(
        ["part", *parts],
        [
            *((part, *(counts[part] for counts in parts.values())) for part in names),
            ("all", *(sum(counts.values()) for counts in parts.values())),
        ],
    )
    gpt2 = PRESETS["gpt2"]
    tied = gpt2.vocab_size * gpt2.emb_dim
    total = sum(parts["gpt2"].values())
    say(
        f"gpt2 has {total:,} parameters. Programs that store the output layer as a copy of the "
        f"token embedding count {tied:,} more, {total + tied:,}: the same model, untied. In gpt2 a "
        "third of all parameters only says what tokens are, in mini a fifth; in the largest nearly "
        "all sit in the blocks. Two thirds of a block are its feed-forward layers."
    )
    save(parameters_by_part_figure(parts), out, "ch05_architecture.png")


def by_part(preset: str) -> Counter:
    with torch.device("meta"):  # shapes without numbers: gpt2-xl would take 6 GB
        model = GPTModel(PRESETS[preset])
    counts = Counter(dict.fromkeys(PARTS.values(), 0))
    for name, parameter in model.named_parameters():
        part = next(part for piece, part in PARTS.items() if piece in name)
        counts[part] += parameter.numel()
    assert sum(counts.values()) == parameter_counts(model)["total"]
    return counts


if __name__ == "__main__":
    lesson(teach, __doc__)
