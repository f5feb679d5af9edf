"""Chapter 10. Beyond LoRA: four bits, lengths and directions, another start, another place

LoRA saves gradients and the optimizer's state. It does not save the frozen W, nor the activations.
And its form, x A B with B from zero, is one choice among several. Four ideas that came after it:

* QLoRA (Dettmers et al. 2023): W is only read, so it can be kept in fewer bits;
* DoRA (Liu et al. 2024): the length of each row of W learned apart from its direction;
* PiSSA (Meng et al. 2024): A and B start as the strongest part of W, not as noise and zeros;
* placement: LoRA in some layers or blocks, and not in others.

You will see a block of weights quantised by hand; what the steps from 32 to 8 and to 4 bits do to
the weights, and to how well the model predicts English; which kind of memory shrinks, and which is
left; and four short trainings side by side. Each is equal to what the field's own libraries compute
(bitsandbytes, peft): the tests hold them together.

Source: Dettmers et al. 2023, "QLoRA", section 3; Liu et al. 2024, "DoRA", sections 3 and 4; Meng et
al. 2024, "PiSSA", section 3.
"""

import copy
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from lesson import lesson, patience, save, say, section, show, try_next, weights_option
from lora_plots import beyond_figure

from llm.data.batching import encode_messages
from llm.data.documents import encode_documents
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.formats.base import load_base
from llm.inference.log_probabilities import measure_documents
from llm.lora.dora import row_changes
from llm.lora.inject import lora_layers
from llm.lora.methods import apply_method
from llm.lora.quantize import NF4_LEVELS, quantize_int8, quantize_nf4
from llm.lora.quantized_linear import quantize_linears
from llm.lora.settings import LoRASettings
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS
from llm.model.gpt import GPTModel
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.memory import static_memory
from llm.training.settings import LEARNING_RATES, TrainSettings
from llm.utils.paths import DATA
from llm.utils.program import positive

RANK, ALPHA = 8, 16
BLOCKS = (16, 32, 64, 128, 256, 1024)  # weights that share a scale


def options(parser):
    weights_option(parser)
    parser.add_argument(
        "--steps", type=positive, default=12, help="optimiser steps of each training"
    )


def teach(options):
    body = load_base("mini", options.weights, options.seed)
    a_block_by_hand()
    errors = what_is_lost(body)
    what_it_costs_in_english(body)
    which_memory_shrinks()
    changes = four_trainings(body, options)
    weights = torch.cat([w.flatten() for w in matrices(body).values()])
    save(
        beyond_figure(scaled(weights), NF4_LEVELS, errors, changes),
        options.out,
        "ch10_beyond_lora.png",
    )
    try_next(
        "BLOCKS = (8,) at the top of this file: the error falls further. How many bits does a "
        "weight take then, scales included? (4 + 32/8)",
        "--weights random: weights fresh from a normal distribution. Is NF4's error smaller than "
        "for the trained ones?",
        "python -m llm compare --methods lora,qlora,dora --splits 3: whether any of this shows in "
        "what the model answers.",
    )


def a_block_by_hand():
    section("A block of weights in four bits, by hand")
    weights = torch.tensor([0.10, -0.40, 0.06])
    scale = weights.abs().max()
    numbers = [min(range(16), key=lambda n: abs(NF4_LEVELS[n] - w / scale)) for w in weights]
    say(
        "To quantise is to store which of a few levels lies nearest. NF4 has sixteen, from -1 to "
        "1, close together around zero, where most weights are. One scale, the largest absolute "
        "value, goes with each block of 64 weights. Here a block of three:"
    )
    show(
        ["weight", "weight / scale", "level", "its number", "comes back as"],
        [
            (w, (w / scale).item(), NF4_LEVELS[n], n, (NF4_LEVELS[n] * scale).item())
            for w, n in zip(weights.tolist(), numbers)
        ],
    )
    back = quantize_nf4(weights[None], block=3).dequantize()[0]
    assert torch.equal(back, torch.tensor([NF4_LEVELS[n] for n in numbers]) * scale)
    say("The same as quantize_nf4(weights, block=3) gives, number for number.")


def matrices(body: GPTModel) -> dict[str, torch.Tensor]:
    """The W of all Linear layers of the blocks: (out, in) each."""
    layers = body.named_modules()
    return {
        name: module.weight.detach()
        for name, module in layers
        if isinstance(module, torch.nn.Linear)
    }


def scaled(weights: torch.Tensor) -> torch.Tensor:
    """Weights as NF4 sees them: divided by the largest of their block of 64."""
    blocks = weights[: len(weights) // 64 * 64].view(-1, 64)
    return (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()


def relative_error(weight: torch.Tensor, back: torch.Tensor) -> float:
    return ((weight - back).norm() / weight.norm()).item()


def what_is_lost(body) -> tuple[dict[int, float], tuple[float, float]]:
    section("What is lost")
    weight = matrices(body)["trf_blocks.4.ff.fc1"]
    ways = {
        "int8, a scale a row": quantize_int8(weight),
        "nf4, blocks of 64": quantize_nf4(weight),
        "nf4, scales quantised too": quantize_nf4(weight, double=True),
    }
    say(
        f"One matrix of mini, the first of the MLP in block 4, {tuple(weight.shape)}. The error is "
        "the length of what changed over the length of W:"
    )
    show(
        ["", "bits a weight", "error"],
        [
            (name, w.bits_per_weight, f"{100 * relative_error(weight, w.dequantize()):.1f} %")
            for name, w in ways.items()
        ],
    )
    turned = quantize_nf4(weight.T.contiguous()).dequantize().T
    same = torch.equal(turned, ways["nf4, blocks of 64"].dequantize())
    assert not same
    say(
        "Quantising the scales as well costs next to nothing and saves 0.37 bits a weight. And a "
        "trap: quantised after being transposed, the matrix comes back as another one, because "
        "other weights share a block. A smaller block has a smaller error and more scales:"
    )
    errors = {b: relative_error(weight, quantize_nf4(weight, b).dequantize()) for b in BLOCKS}
    show(
        ["block", "bits a weight", "error"],
        [(b, 4 + 32 / b, f"{100 * error:.1f} %") for b, error in errors.items()],
    )
    int8 = ways["int8, a scale a row"]
    return errors, (int8.bits_per_weight, relative_error(weight, int8.dequantize()))


def what_it_costs_in_english(body):
    section("What it costs in English")
    texts = (DATA / "english.txt").read_text(encoding="utf-8").split("\n\n")
    documents = encode_documents(mini_tokenizer(), texts, body.config.context_length)
    rows = []
    for kind in (None, "int8", "nf4"):
        model = copy.deepcopy(body).eval()
        if kind:
            quantize_linears(model, kind)
        with torch.no_grad():
            rows.append((kind or "as it is", measure_documents(model, documents)["bits_per_byte"]))
    say(
        "An error of 9 % in every weight sounds like a ruined model. The errors have both signs "
        f"and average out over hundreds of inputs. Bits a byte of {len(texts)} paragraphs written "
        "for this project (data/english.txt), which no model was trained on; less is better:"
    )
    show(["W", "bits a byte"], [(name, f"{bits:.4f}") for name, bits in rows])


def which_memory_shrinks():
    section("Which memory shrinks")
    say(
        "Weights, gradients and optimizer state in MB, rank 8, counted on the meta device; the "
        "last column is the embeddings' share of the weights. Activations come on top, the same "
        "for LoRA and QLoRA:"
    )
    rows = []
    for shape in ("mini", "gpt2", "gpt2-xl"):
        for name, method, lora in (
            ("full", "full", LoRASettings()),
            ("LoRA", "lora", LoRASettings(RANK, ALPHA)),
            ("QLoRA", "lora", LoRASettings(RANK, ALPHA, quantize="nf4")),
        ):
            with torch.device("meta"):
                model = GPTClassifier(PRESETS[shape])
                apply_method(model, method, lora)
            memory = static_memory(model)
            embeddings = model.body.tok_emb.weight.nbytes + model.body.pos_emb.weight.nbytes
            share = f"{100 * embeddings / memory['weights']:.0f} %"
            row = (f"{value / 1e6:,.1f}" for value in memory.values())
            rows.append((shape, name, *row, share))
    show(["base", "method", "weights", "gradients", "optimizer", "embeddings"], rows)
    say(
        "The matrices of the blocks shrink 7.8 times (32 bits to 4.127), the embeddings stay in "
        "float32, and in a small model they are most of what is left. So what a method saves "
        "depends on the model it is used on; and with long messages the activations rule."
    )


def four_trainings(body, options) -> dict[str, dict[str, tuple[float, float]]]:
    section(f"Four short trainings, {options.steps} steps each")
    patience("four trainings", 4 * 0.6 * options.steps)
    usual = LEARNING_RATES["lora"]
    ways = {
        "LoRA": LoRASettings(RANK, ALPHA),
        "QLoRA, nf4": LoRASettings(RANK, ALPHA, quantize="nf4"),
        "DoRA": LoRASettings(RANK, ALPHA, variant="dora"),
        "PiSSA": LoRASettings(RANK, ALPHA, init="pissa"),
    }
    messages = split(load_messages(), seed=0).train
    texts, labels = [m.text for m in messages], [m.label for m in messages]
    encoded = encode_messages(mini_tokenizer(), texts, labels, body.config.context_length)
    few = encode_messages(mini_tokenizer(), texts[-8:], labels[-8:], body.config.context_length)
    rows, changes = [], {}
    for name, lora in ways.items():
        torch.manual_seed(options.seed)
        model = GPTClassifier(body.config, body=copy.deepcopy(body))
        apply_method(model, "lora", lora)
        before = {place: layer.merged_weight() for place, layer in lora_layers(model).items()}
        task = ClassificationTask(model, encoded, few, batch_size=32, seed=options.seed)
        rate = usual / 10 if lora.init == "pissa" else usual
        settings = TrainSettings(steps=options.steps, lr=rate, seed=options.seed)
        losses = [point["loss"] for point in train(model, task, settings, quiet=True)["curve"]]
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        third = max(1, len(losses) // 3)
        means = (sum(part) / third for part in (losses[:third], losses[-third:]))
        rows.append((name, rate, trained, *means))
        changes[name] = {
            place: row_changes(before[place], layer.merged_weight())
            for place, layer in lora_layers(model).items()
        }
    show(["", "rate", "numbers trained", "mean loss, first third", "last third"], rows)
    say(
        "PiSSA has a tenth of LoRA's rate: its A and B are not small, so a step of the same size "
        "changes W much more, and at LoRA's rate the loss jumps. Otherwise these few steps show "
        "that all four learn, and no more: which is better takes many splits, each way at its own "
        "rate. What can be seen is what they do to W. Each of its rows, the weights that make "
        "one output, has a length and a direction; by how much did they change?"
    )
    show(
        ["", "length, mean change", "direction, mean 1 - cosine"],
        [
            (name, *(sum(v) / len(v) for v in zip(*of_layers.values())))
            for name, of_layers in changes.items()
        ],
    )
    say(
        "The authors of DoRA looked at this picture for LoRA and for full fine-tuning, saw the two "
        "move together in the one and not in the other, and gave the length a number of its own "
        "(section 3.2). The figure has a point for each layer."
    )
    return changes


if __name__ == "__main__":
    lesson(teach, __doc__, options)
