"""Chapter 7. LoRA: leave W alone, learn a low-rank update beside it

Fine-tuning all of GPT-2 for one task moves 124 million numbers, needs gradients and optimizer state
for each, and leaves a second file of 500 MB. LoRA rests on a hypothesis: the *change* that a task
asks of a weight matrix W is simple, of low rank, or can be made so at no loss. For the task of this
project it seems to: over ten splits, rank 8 is not seen to be behind full fine-tuning in F1
(chapter 9). So W stays frozen, and the change is learned as a product of two thin matrices:

    y = x W^T + b + (alpha / rank) * (x A B)         A: in x rank,  B: rank x out

You will see, one claim after the other and each checked on the spot: the two matrices with numbers;
why a fresh LoRA layer changes nothing; how the layers get into a model and what is trained then; a
short training after which W is the same bit for bit; the rank of what was learned; merging; what is
stored; and two traps, the scale and the start of A.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

import copy
import math
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
from lesson import lesson, listing, patience, save, say, section, show, try_next, weights_option
from lora_plots import lora_figure
from torch import nn

from llm.data.batching import Encoded, batch_indices, collate, encode_messages, steps_per_epoch
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import mini_tokenizer
from llm.formats.base import load_base
from llm.lora.inject import lora_layers, merge, replace_linear_with_lora, unmerge
from llm.lora.layer import LinearWithLoRA, LoRALayer
from llm.model.classifier import GPTClassifier
from llm.model.config import PRESETS
from llm.model.parameters import parameter_counts, trainable_state
from llm.training.classification import ClassificationTask
from llm.training.loop import train
from llm.training.settings import LEARNING_RATES, TrainSettings
from llm.utils.errors import InputError
from llm.utils.files import write_tensors
from llm.utils.program import positive

RANK, ALPHA = 8, 16


def options(parser):
    weights_option(parser)
    parser.add_argument(
        "--steps", type=positive, default=20, help="optimizer steps of the training"
    )


def teach(options):
    two_matrices()
    nothing_changes_at_first()
    what_is_trained()
    model, batch, encoded = injected(options)
    where_gradients_go(model, batch)
    before = copy.deepcopy(model.state_dict())
    short_training(model, encoded, before, options)
    figure = rank_of_the_update(model)
    merging(model, batch)
    what_is_stored(model)
    the_scale()
    the_start_of_a()
    save(figure, options.out, "ch07_lora.png")
    try_next(
        "RANK = 1 at the top of this file: the update of a layer acts in one direction, and an "
        "eighth of the numbers is trained. Does the loss fall more slowly?",
        'replace_linear_with_lora(model, RANK, ALPHA, targets=["W_query", "W_value"]), the '
        "paper's choice: two ninths of the trainable numbers.",
        "--steps 1: after one step B is not zero any more, and A has moved too, though its "
        "gradient was zero: AdamW's weight decay shrinks it a little all the same.",
    )


def two_matrices():
    section("The two matrices")
    layer = LoRALayer(in_dim=3, out_dim=2, rank=1, alpha=2)
    with torch.no_grad():
        layer.A.copy_(torch.tensor([[1.0], [0.0], [-1.0]]))
        layer.B.copy_(torch.tensor([[0.5, 2.0]]))
    x = torch.tensor([[3.0, 9.0, 1.0]])  # (1, 3)
    low = x @ layer.A  # (1, 1)
    say("Three numbers in, two out, rank 1, alpha 2. By hand and by LoRALayer:")
    listing(
        "x                     (3, 9, 1)",
        "A, a column           (1, 0, -1)",
        "B, a row              (0.5, 2)",
        f"x A                   3*1 + 9*0 - 1*1 = {low.item():g}",
        "x A B                 2 * (0.5, 2) = (1, 4)",
        f"alpha / rank * x A B  2 * (1, 4) = {tuple(layer(x)[0].tolist())}",
    )
    say(
        "Everything passes through one number: x A. The update cannot see what A does not ask, "
        "nor answer outside the direction of B. In GPT-2 124M, where a layer is 768 x 768:"
    )
    rows = []
    for rank in (1, 4, 8, 16, 64, 768):
        both = 768 * rank + rank * 768
        rows.append((rank, f"768 x {rank}", f"{rank} x 768", both, f"{100 * both / 768**2:.1f} %"))
    show(["rank", "A", "B", "numbers in A and B", "share of W's 589,824"], rows)
    say("At full rank A and B together are twice as large as W: LoRA pays only where rank is low.")


def nothing_changes_at_first():
    section("B starts at zero, so nothing changes at first")
    linear = nn.Linear(768, 768)
    x = torch.randn(5, 768)
    adapted = LinearWithLoRA(linear, RANK, ALPHA)
    with torch.no_grad():
        same = torch.equal(linear(x), adapted(x))
    assert same
    listing(
        f"A: random, {adapted.lora.A.abs().max():.4f} the largest",
        f"B: {adapted.lora.B.abs().max():g} everywhere",
        f"output with the LoRA layer equals the output without, bit for bit: {same}",
    )
    say(
        "A pretrained model goes on from where it was. Both at zero would be a trap: the gradient "
        "of A is multiplied by B and that of B by x A, so neither would ever move."
    )


def what_is_trained():
    section("What is trained: GPT-2 124M, rank 16")
    say(
        "Counted on the meta device. First the way of the book that this project grew from "
        "(Raschka 2024, Build a Large Language Model (From Scratch), appendix E), a LoRA layer "
        "beside every Linear, the head included; then ours, where the head, two rows of random "
        "numbers, is trained itself; then the paper's, queries and values alone at rank 4 (Hu et "
        "al. 2021, section 4.2)."
    )
    rows = []
    for name, rank, targets in (
        ("every Linear", 16, "all"),
        ("every Linear of the blocks", 16, None),
        ("W_query and W_value", 4, ["W_query", "W_value"]),
    ):
        with torch.device("meta"):
            model = GPTClassifier(PRESETS["gpt2"])
        before = parameter_counts(model)["total"]
        chosen = {} if targets is None else {"targets": targets}
        replaced = replace_linear_with_lora(model, rank, rank, **chosen)
        head = sum(p.numel() for p in model.head.parameters() if p.requires_grad)
        trainable = parameter_counts(model)["trainable"]
        share = f"{100 * trainable / before:.2f} %"
        rows.append((name, rank, len(replaced), before, trainable, head, share))
    header = ["targets", "rank", "layers", "before", "trainable", "in the head", "share"]
    show(header, rows)
    say(
        "A low-rank update of the head would take 12,320 numbers to steer 1,538, and leave what "
        "it starts from to chance. The paper counts LoRA's numbers without a head: 147,456 = 12 "
        "blocks * 2 layers * (768 * 4 + 4 * 768)."
    )


def injected(options) -> tuple[GPTClassifier, tuple, Encoded]:
    section("Into the model")
    tokenizer = mini_tokenizer()
    body = load_base("mini", options.weights, options.seed)
    torch.manual_seed(options.seed)
    model = GPTClassifier(body.config, body=body)
    messages = split(load_messages(), seed=0).train
    texts, labels = [m.text for m in messages], [m.label for m in messages]
    encoded = encode_messages(tokenizer, texts, labels, model.config.context_length)
    batch = collate(encoded, batch_indices(len(encoded), 32, 0, options.seed))
    try:
        replace_linear_with_lora(model, RANK, ALPHA, targets=["W_qeury"])
    except InputError as error:
        complaint = error
    with torch.no_grad():
        before = model(batch.ids, batch.lengths)
        replaced = replace_linear_with_lora(model, RANK, ALPHA)
        after = model(batch.ids, batch.lengths)
    counts = parameter_counts(model)
    say(
        f"replace_linear_with_lora(model, rank={RANK}, alpha={ALPHA}) goes through mini and puts a "
        f"LinearWithLoRA in the place of {len(replaced)} Linear layers:"
    )
    listing(*replaced[:6], f"... and so on to {replaced[-1]}")
    assert torch.equal(before, after)
    listing(
        f"all parameters        {counts['total']:>10,}",
        f"trainable parameters  {counts['trainable']:>10,}",
        "logits of 32 messages before and after, bit for bit equal: True",
    )
    say("A misspelt target is refused, instead of training nothing:")
    listing(f"InputError: {complaint}")
    return model, batch, encoded


def where_gradients_go(model, batch):
    section("Where the gradients go")
    say(
        "One forward and one backward pass, nothing trained yet. The largest gradient of each kind:"
    )
    loss = nn.functional.cross_entropy(model(batch.ids, batch.lengths), batch.labels)
    loss.backward()
    largest: dict[str, float | str] = {}
    for name, parameter in model.named_parameters():
        kind = kind_of(name)
        if parameter.grad is None:
            largest.setdefault(kind, "none")
        else:
            value = parameter.grad.abs().max().item()
            largest[kind] = max(largest.get(kind, 0.0), value)
    model.zero_grad(set_to_none=True)
    order = ("W and b, frozen", "embeddings and LayerNorms, frozen", "A", "B", "head")
    listing(*(f"{kind:<35}{_number(largest[kind])}" for kind in order))
    say(
        "A's first gradient is exactly zero, because B is. After one step B is not, and A follows. "
        "Frozen weights get no gradient, and AdamW keeps no state for them."
    )


def short_training(model, encoded, before, options):
    section(f"{options.steps} steps of training")
    few = Encoded(encoded.ids[-200:], encoded.labels[-200:], 0)
    task = ClassificationTask(model, encoded, few, batch_size=32, seed=options.seed)
    settings = TrainSettings(steps=options.steps, lr=LEARNING_RATES["lora"], seed=options.seed)
    patience("training", 0.6 * options.steps)
    history = train(model, task, settings, quiet=False)
    losses = [point["loss"] for point in history["curve"]]
    fifth = max(1, len(losses) // 5)
    say(
        f"{min(32 * options.steps, len(encoded)):,} of {len(encoded):,} messages "
        f"({options.steps / steps_per_epoch(len(encoded), 32):.1f} epochs). Mean loss of the first "
        f"steps {sum(losses[:fifth]) / fifth:.3f}, of the last {sum(losses[-fifth:]) / fifth:.3f}. "
        "What changed, bit for bit?"
    )
    rows: dict[str, list[int]] = {}
    for name, tensor in model.state_dict().items():
        counted = rows.setdefault(kind_of(name), [0, 0, 0])
        counted[0] += 1
        counted[1] += tensor.numel()
        counted[2] += not torch.equal(tensor, before[name])
    show(
        ["", "tensors", "numbers", "tensors that changed"],
        [(kind, *counted) for kind, counted in rows.items()],
    )
    assert all(counted[2] == 0 for kind, counted in rows.items() if "frozen" in kind)


def rank_of_the_update(model):
    section("The rank of what was learned")
    name = f"body.trf_blocks.{model.config.n_layers - 1}.ff.fc1"
    layer = lora_layers(model)[name]
    with torch.no_grad():
        weight, delta = layer.linear.weight.double(), layer.lora.delta().double()
        of_weight, of_delta = torch.linalg.svdvals(weight), torch.linalg.svdvals(delta)
    rank = int((of_delta > 1e-6 * of_delta[0]).sum())
    say(
        f"The update of {name} is a matrix of {tuple(delta.shape)}, as large as W. Its singular "
        "values say in how many directions it acts, and how strongly:"
    )
    listing(
        f"directions of W       {int((of_weight > 1e-6 * of_weight[0]).sum())}",
        f"directions of update  {rank}",
        "their strengths       " + "  ".join(f"{value:.4f}" for value in of_delta[:rank].tolist()),
        f"size of the update    {100 * delta.norm() / weight.norm():.1f} % of W's (Frobenius norm)",
    )
    gpt2 = PRESETS["gpt2"]
    stored = {rank: adapter_kilobytes(gpt2, rank) / 1e3 for rank in (1, 2, 4, 8, 16, 32)}
    return lora_figure(of_weight, of_delta, stored, 4 * 124_441_346 / 1e6)


def adapter_kilobytes(config, rank) -> float:
    with torch.device("meta"):
        model = GPTClassifier(config)
    replace_linear_with_lora(model, rank, rank)
    return 4 * parameter_counts(model)["trainable"] / 1e3


@torch.no_grad()
def merging(model, batch):
    section("Merge and unmerge")
    name, layer = list(lora_layers(model).items())[0]
    original = layer.linear.weight.clone()
    apart = model(batch.ids, batch.lengths)
    merge(model)
    merged, changed = model(batch.ids, batch.lengths), layer.linear.weight.clone()
    say(
        "For use, the update is added into W: the model then costs exactly what it did before "
        "LoRA. Taken out again, W comes back, to rounding:"
    )
    try:
        merge(model)
    except InputError as error:
        complaint = error
    unmerge(model)
    again = model(batch.ids, batch.lengths)
    show(
        ["", "largest difference"],
        [
            ("logits, merged - apart", f"{(merged - apart).abs().max():.1e}"),
            ("logits, unmerged - apart", f"{(again - apart).abs().max():.1e}"),
            (f"{name}, merged - W", f"{(changed - original).abs().max():.1e}"),
            (f"{name}, unmerged - W", f"{(layer.linear.weight - original).abs().max():.1e}"),
        ],
    )
    say("Merging twice would add the update twice, so it is an error:")
    listing(f"InputError: {complaint}")
    with torch.no_grad():
        layer.linear.weight.copy_(original)


def what_is_stored(model):
    section("What is stored")
    with tempfile.TemporaryDirectory() as folder:
        adapter, whole = Path(folder) / "adapter.safetensors", Path(folder) / "model.safetensors"
        write_tensors(adapter, trainable_state(model))
        write_tensors(whole, GPTClassifier(model.config).state_dict())
        sizes = [("A, B and head", adapter.stat().st_size), ("all weights", whole.stat().st_size)]
    show(["file of mini", "kilobytes (kB)"], [(name, round(size / 1e3)) for name, size in sizes])
    gpt2 = adapter_kilobytes(PRESETS["gpt2"], RANK)
    say(
        f"{sizes[1][1] / sizes[0][1]:.0f} times less. For GPT-2 124M at rank {RANK}: "
        f"{gpt2:,.0f} kB against 497,765 kB. The base is kept once, and every further task costs "
        "an adapter."
    )


def the_scale():
    section("A trap: the scale")
    say(
        "The paper scales the update by alpha / rank, so that trying another rank does not change "
        "how strong the update is. The book's first code multiplied by alpha alone. Its alpha "
        "of 16 is here alpha = 16 * rank:"
    )
    show(
        ["rank", "alpha", "scale, alpha / rank", "scale, alpha alone", "the same with alpha ="],
        [(rank, 16, LoRALayer(8, 8, rank, 16).scale, 16, 16 * rank) for rank in (1, 4, 8, 16, 64)],
    )
    say(
        "Who moves from the one to the other and keeps alpha and the learning rate trains 16 times "
        "weaker at rank 16, and may conclude that LoRA does not work."
    )


def the_start_of_a():
    section("Another trap: the start of A")
    ours = LoRALayer(768, 768, 16, 16).A
    handed_over = torch.empty(768, 16)
    nn.init.kaiming_uniform_(handed_over, a=math.sqrt(5))
    say(
        "Kaiming's rule draws from +-1/sqrt(fan-in), the fan-in being the numbers that are summed "
        "up: 768. PyTorch's function takes the second number of the shape for it. A is stored as "
        "(in, rank) = (768, 16), so it would take 16; loralib and peft store A as (rank, in):"
    )
    show(
        ["A", "largest number", "the rule"],
        [
            ("ours, and loralib's and peft's", ours.abs().max().item(), "1/sqrt(768) = 0.0361"),
            ("handed over as (768, 16)", handed_over.abs().max().item(), "1/sqrt(16)  = 0.25"),
        ],
    )
    say("6.9 times wider: early training runs faster, as with a higher learning rate.")


def kind_of(name: str) -> str:
    if name.endswith("lora.A") or name.endswith("lora.B"):
        return name[-1]
    if name.startswith("head."):
        return "head"
    return "W and b, frozen" if ".linear." in name else "embeddings and LayerNorms, frozen"


def _number(value) -> str:
    return value if isinstance(value, str) else f"{value:.2e}" if value else "0"


if __name__ == "__main__":
    lesson(teach, __doc__, options)
