"""The checks of exercises 2. They hold the answers to many questions: try first, read later."""

import torch
from checks_variant import VARIANT
from torch import nn

from llm.exercises import TINY, attempt, exercise, expect
from llm.lora.layer import LinearWithLoRA
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS


@exercise("2.1")
def check_merging(mergeable_linear):
    torch.manual_seed(0)
    layer = attempt(mergeable_linear, nn.Linear(6, 4), 2, 6)
    nn.init.normal_(layer.lora.B)  # as if it had been trained
    x, W = torch.randn(5, 6), layer.linear.weight.clone()
    delta = layer.lora.delta()  # (out, in), scale included
    base = layer.linear(x)
    answer = base + x @ delta.T
    mistakes = {
        "Before merging, forward leaves the update out: self.linear(x) + self.lora(x).": base,
    }
    expect(attempt(layer, x), answer, mistakes, what="the answer before merging")

    attempt(
        layer.merge,
        hint="merge fails. A @ B is (in, out), but nn.Linear keeps its weight as (out, in): "
        "transpose the product.",
        of=RuntimeError,
    )
    mistakes = {
        "merge left W as it was: change self.linear.weight in place, with +=.": W,
        "The scale is missing: W changes by scale * (A B) transposed.": W + delta / 3,
        "You subtracted the update; merging adds it.": W - delta,
    }
    expect(layer.linear.weight, W + delta, mistakes, what="W after merging")
    assert not layer.linear.weight.requires_grad, (
        "W is trainable after merging: a new nn.Parameter took its place. Change the one that is "
        "there, with +=."
    )
    assert layer.merged, "Set self.merged = True, so that forward knows."
    mistakes = {
        "The update counts twice: once in W and once in forward. While merged, forward must leave "
        "self.lora(x) out.": base + 2 * x @ delta.T,
    }
    expect(attempt(layer, x), answer, mistakes, "the answer after merging (the same as before)")
    assert _refuses(layer.merge), (
        "Merged twice: the second merge() added the update again. Raise a ValueError if "
        "self.merged is set."
    )
    expect(layer.linear.weight, W + delta, what="W after a refused second merge")

    attempt(layer.unmerge)
    mistakes = {
        "unmerge left W as it was: subtract what merge added.": W + delta,
        "unmerge added the update once more; it has to subtract it.": W + 2 * delta,
        "unmerge forgot the scale.": W + delta - delta / 3,
    }
    expect(layer.linear.weight, W, mistakes, what="W after unmerging")
    assert not layer.merged, "After unmerge() the flag must go back: self.merged = False."
    expect(attempt(layer, x), answer, what="the answer after unmerging")
    return (
        "Merged, a model is as large and as fast as before LoRA; unmerged, it is ready for the "
        "next adapter."
    )


def _refuses(action) -> bool:
    try:
        action()
    except NotImplementedError:
        raise
    except (ValueError, RuntimeError):
        return True
    return False


@exercise("2.2")
def check_injection(inject_lora):
    torch.manual_seed(0)
    model = GPTClassifier(TINY)
    ids, lengths = torch.randint(0, 61, (4, 9)), torch.tensor([9, 4, 1, 6])
    before = model(ids, lengths).detach()
    names = attempt(
        *(inject_lora, model, ["W_query", "fc1"], 2, 4),
        hint="If the dictionary changed during iteration: collect the names in a list before you "
        "replace anything.",
        of=RuntimeError,
    )
    layers = ("att.W_query", "ff.fc1")
    wanted = [f"body.trf_blocks.{block}.{layer}" for block in range(3) for layer in layers]
    injected = [name for name, part in model.named_modules() if isinstance(part, LinearWithLoRA)]
    assert injected, (
        "No layer of the model was replaced. setattr needs the module that holds the layer "
        "(model.get_submodule) and the layer's last name, without dots."
    )
    assert len(injected) != 2, (
        "Only one block was changed. Walk through model.named_modules(), all of it."
    )
    blocks = model.body.trf_blocks
    assert all(isinstance(block.att.W_query, LinearWithLoRA) for block in blocks), (
        "In its block there is still the plain Linear; the new layer hangs at the model itself, "
        "under a name with dots. Use setattr on the module that holds the layer "
        "(model.get_submodule)."
    )
    assert "head" not in injected, "The head is not among the targets; leave it as it is."
    expect(injected, wanted, what="the list of replaced layers")

    own = {name: p for name, p in model.named_parameters() if ".lora." not in name}
    added = {name: p for name, p in model.named_parameters() if ".lora." in name}
    assert not own["body.trf_blocks.0.att.W_query.linear.weight"].requires_grad, (
        "The base is not frozen: the weights beside which LoRA was put are still trained."
    )
    left = [n for n, p in own.items() if p.requires_grad and not n.startswith("head.")]
    assert not left, (
        f"The base is frozen only in part; {left[0]} and {len(left) - 1} others are still trained. "
        "model.requires_grad_(False) freezes everything, embeddings and LayerNorms included."
    )
    assert all(p.requires_grad for p in added.values()), (
        "A and B are frozen, so LoRA cannot learn. Freeze first, inject afterwards."
    )
    assert own["head.weight"].requires_grad and own["head.bias"].requires_grad, (
        "The head is frozen. It starts from random numbers and has to be trained itself."
    )
    layer = blocks[0].att.W_query.lora
    assert (layer.rank, layer.alpha) == (2, 4), (
        f"rank 2 and alpha 4 were asked for, the layers have rank {layer.rank} and alpha "
        f"{layer.alpha}: LinearWithLoRA(linear, rank, alpha), in this order."
    )
    expect(names, injected, what="the returned list")
    expect(model(ids, lengths), before, what="the model's answers right after the injection")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return (
        f"A GPT-2 that answers as before, of which {trained:,} of {total:,} numbers will learn. "
        "The same function takes GPT-2 XL."
    )


@exercise("2.3")
def check_counting(count_lora):
    gpt2 = PRESETS["gpt2"]

    def counted(*inputs):
        hint = "Look the sizes up by the target's name; fc1 and fc2 are there too."
        return attempt(count_lora, *inputs, hint=hint, of=KeyError)

    skipped = VARIANT["skipped_blocks"]
    blocks = 12 - skipped
    a_block = 2 * 8 * (768 + 768)
    mistakes = {
        "That is one block only: multiply by config.n_layers.": a_block,
        "You counted a bias for every layer. A and B have none.": blocks * (a_block + 2 * 768),
        "You counted the frozen weights W instead of A and B.": blocks * 2 * 768 * 768,
        "You counted the frozen weights as well; only A and B are asked for.": blocks
        * (2 * 768 * 768 + a_block),
        "A has in * rank numbers and B has rank * out: add them, do not multiply in and out.": (
            blocks * 2 * 768 * 768 * 8
        ),
        "You counted A (or B) alone; there are two matrices.": blocks * a_block // 2,
    }
    if skipped:
        mistakes[f"{skipped} blocks have no LoRA in this exercise: read the task again."] = (
            12 * a_block
        )
    what = "queries and values of GPT-2 124M at rank 8"
    expect(counted(gpt2, ["W_query", "W_value"], 8), blocks * a_block, mistakes, what)
    mistakes = {
        "fc1 is four times as wide on its far side: d -> 4 d.": blocks * (768 + 768),
    }
    expect(counted(gpt2, ["fc1"], 1), blocks * (768 + 3072), mistakes, what="fc1 at rank 1")
    everything = ["W_query", "W_key", "W_value", "out_proj", "fc1", "fc2"]
    large = counted(PRESETS["gpt2-xl"], everything, 8)
    return (
        f"For GPT-2 XL, all six layers of every block at rank 8, your function says {large:,} "
        "of 1.56 billion, and nobody had to download it."
    )


@exercise("2.4")
def check_memory(training_bytes):
    found = attempt(training_bytes, 1000, 10)
    kinds = ["gradients", "optimizer", "weights"]
    assert found is not None, "Nothing came back: does your function `return` the dictionary?"
    assert isinstance(found, dict), "Return a dictionary: the kinds, and the bytes of each."
    expect(sorted(found), kinds, what="the list of kinds")
    size, means, optimizer = VARIANT["bytes"], VARIANT["means"], VARIANT["optimizer"]
    kept = {1: "one number", 2: "two numbers"}[means]
    mistakes = {
        "Frozen weights are in memory too: count all 1,000.": size * 10,
        f"That is the number of weights, not of bytes: {size} bytes each.": 1000,
        f"A {8 * size}-bit number has {size} bytes, not {8 * size}.": 8 * size * 1000,
        "Weights that are trained are part of the total already.": size * 1010,
        f"Each number has {size} bytes in this exercise, not 4.": 4000,
    }
    expect(found["weights"], size * 1000, mistakes, what="bytes of weights")
    mistakes = {
        "Frozen weights have no gradients; only the 10 trained ones do.": size * 1000,
        f"That is the number of gradients, not of bytes: {size} bytes each.": 10,
    }
    expect(found["gradients"], size * 10, mistakes, what="bytes of gradients")
    mistakes = {
        f"{optimizer} keeps {kept} for each trained weight, not {3 - means}.": size
        * 10
        * (3 - means),
        f"The optimizer knows only the trained weights: {kept} for each of the 10.": size
        * 1000
        * means,
        f"The optimizer knows only the trained weights, and keeps {kept} for each.": size * 1000,
        "Weights and gradients are counted apart; here only the optimizer's running means.": size
        * 10
        * (means + 1),
    }
    expect(found["optimizer"], size * 10 * means, mistakes, what="bytes of optimizer state")
    full, lora = (
        sum(attempt(training_bytes, 1_557_614_402, trained).values()) / 1e9
        for trained in (1_557_614_402, 11_062_402)
    )
    return (
        f"So GPT-2 XL takes {full:.1f} GB with full fine-tuning and {lora:.1f} GB with LoRA at "
        "rank 8, activations aside. The next cell draws the family."
    )


@exercise("2.5")
def check_last_token(last_real):
    ids = torch.tensor([[5, 6, 7, 8], [5, 0, 0, 0], [5, 6, 0, 0]])  # padded with 0 ...
    lengths = torch.tensor([4, 1, 3])  # ... but the last message itself ends in a token 0
    hidden = torch.arange(12.0).view(3, 4, 1).repeat(1, 1, 2)  # token 0 of message 1 is [4, 4]
    found = attempt(
        *(last_real, hidden, ids, lengths),
        hint="Indexing fails. A message of length 4 has its last token at place 3; and you need "
        "one place for each message: hidden[torch.arange(batch), places].",
    )

    def rows(*values):
        return torch.tensor(values)[:, None].repeat(1, 2)

    mistakes = {
        "You read the padding: the last place of a row is a real token only in the longest "
        "message.": rows(3.0, 7.0, 11.0),
        "Off by one: a message of length n has its last token at place n - 1.": rows(
            3.0, 5.0, 11.0
        ),
        "You looked for the padding token 0 in ids, but the last message contains one. Use "
        "lengths.": rows(3.0, 4.0, 9.0),
        "You took the first token of each message; it has not looked at the others.": rows(
            0.0, 4.0, 8.0
        ),
        "You averaged over all places, padding included; take one token of each message.": rows(
            1.5, 5.5, 9.5
        ),
        "hidden[:, lengths - 1] takes all these places from every message. Pair them: "
        "hidden[torch.arange(batch), lengths - 1].": hidden[:, lengths - 1],
    }
    expect(found, rows(3.0, 4.0, 10.0), mistakes, what="the last real tokens")
    return "A message's answer no longer depends on what stands beside it; the next cell shows it."
