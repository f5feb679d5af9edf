"""The suite of `llm.benchmark` for many adapters on one base, one for each message of a batch.

    python -m llm.benchmark adapters --counts 1,10,100,1000 --out adapters.json
    python -m llm.benchmark adapters --counts 1,10,100,1000 --device cuda --peers-at-most 10 \\
        --seconds 100 --out adapters-cuda.json

For each count: the memory that the adapters hold, the time to load one and to switch to one, and a
batch of 100 messages, real ones, in which each message has its own adapter (message i has adapter
i mod count), beside the same batch through one adapter. Once for whole messages, which are told
apart, and once for writing, where each step adds one token a message. Beside it

* peft, which takes `adapter_names=` and goes through the adapters of a batch one after the other;
* as many merged models as adapters, each with its own messages: what one would do without LoRA.

The adapter is the shipped one, so answers are real; the peer's has the same shape. To give peft a
hundred adapters takes minutes, hence `--peers-at-most`. The file is written after each count, and
after `--seconds` nothing more is begun but what every count needs to be whole.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from llm.benchmark.peers import gpt2_config, missing
from llm.benchmark.runner import spread, timed
from llm.data.batching import Encoded, collate
from llm.data.messages import load_task
from llm.inference.adapters import Adapters
from llm.inference.generate import continue_each
from llm.utils.files import write_json
from llm.utils.paths import BUNDLED

MESSAGES = 100
MERGED_AT_MOST = 100  # models of 40 MB


def adapters(given) -> dict:
    """Rates and times for each number of adapters.

    Args:
        given: the command line's options: `counts`, `rounds`, `tokens` (to write), `threads`,
            `device`, `peers_at_most` (adapters beside which peers are measured), `seconds` (no
            count and no round is begun after), `out` (written after each count).

    Returns:
        `results`: by count; `ratios`: mixed over one adapter, and over the peers, round by round;
        `left_out`: counts for which no time was left.
    """
    torch.set_num_threads(given.threads)
    deadline = time.perf_counter() + given.seconds
    texts = [message.text for message in load_task("spam").messages[:MESSAGES]]
    content = {"results": {}, "ratios": {}, "left_out": []}
    content |= {"threads": given.threads, "device": given.device}
    for count in given.counts:
        if time.perf_counter() > deadline:
            content["left_out"].append(count)
            continue
        content["results"][count] = found = _measure(count, texts, given, deadline)
        content["ratios"] |= _ratios(count, found["contests"])
        if given.out:
            write_json(given.out, content)
        print(f"{count} adapters measured", file=sys.stderr, flush=True)
    return content


def _measure(count: int, texts: list[str], given, deadline: float) -> dict:
    """What `results` holds for one count."""
    started = time.perf_counter()
    ours = Adapters.load({f"a{i}": BUNDLED["spam"] for i in range(count)}, given.device)
    loading = (time.perf_counter() - started) / count
    contests = _contests(ours, texts, given.tokens)
    if missing("peft") is None and count <= min(MESSAGES, given.peers_at_most):
        contests |= _peft(ours, texts, given.tokens, count)
    for run in contests.values():
        run()  # the first call sets the libraries up
    found = {name: [] for name in contests}
    for number in range(given.rounds):
        if number and time.perf_counter() > deadline:
            break
        for name, run in contests.items():
            found[name].append(dict(zip(("seconds", "processor_seconds"), _timed(run))))
    return {
        "adapter_bytes": _bytes(ours),
        "load_seconds_an_adapter": loading,
        "switch_seconds": _switching(ours),
        "contests": found,
    }


def _ratios(count: int, found: dict[str, list[dict]]) -> dict[str, dict]:
    """The rate of the mixed batch over the others', round by round."""
    ratios = {}
    for kind in ("classify", "write"):
        for other in ("one adapter", "peft", "merged"):
            for figure in ("seconds", "processor_seconds"):
                pairs = list(zip(found.get(f"{kind}, {other}", []), found[f"{kind}, mixed"]))
                if pairs:
                    ratios[f"{kind}, {count} adapters: rate over {other}, {figure}"] = spread(
                        [theirs[figure] / mine[figure] for theirs, mine in pairs]
                    )
    return ratios


def _timed(run: Callable) -> tuple[float, float]:
    def whole() -> None:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return timed(whole)


def _bytes(ours: Adapters) -> int:
    modules = [
        module
        for name in ours
        for module in (*(layer.lora for layer in ours[name].layers.values()), ours[name].head)
    ]
    return sum(p.nbytes for module in modules for p in module.parameters())


def _switching(ours: Adapters) -> float:
    """Median seconds of `use`, over all adapters in turn."""
    seconds = []
    for name in [*ours] * (1 + 20 // len(ours)):
        started = time.perf_counter()
        ours.use(name)
        seconds.append(time.perf_counter() - started)
    ours.use(None)
    return statistics.median(seconds)


def _contests(ours: Adapters, texts: list[str], tokens: int) -> dict[str, Callable]:
    names = [f"a{i % len(ours)}" for i in range(len(texts))]
    alone = ["a0"] * len(texts)
    # Messages of one adapter side by side, as `Adapters.side_by_side` wants them.
    counts = [names.count(name) for name in ours if name in names]
    groups = [ours[name] for name in ours if name in names]
    prompts = [[ours.tokenizer.eot_id]] * len(texts)

    def write(*side_by_side) -> None:
        with ours.side_by_side(*side_by_side) as model:
            continue_each(model.body, prompts, tokens, stop=-1, temperature=0)

    def write_alone() -> None:
        ours.use("a0")
        continue_each(ours.model.body, prompts, tokens, stop=-1, temperature=0)
        ours.use(None)

    contests = {
        "classify, mixed": lambda: ours.classify_mixed(texts, names),
        "classify, one adapter": lambda: ours.classify_mixed(texts, alone),
        "write, mixed": lambda: write(groups, counts, counts),
        "write, one adapter": write_alone,
    }
    if len(groups) <= MERGED_AT_MOST:
        contests["classify, merged"] = _merged(ours, texts, names)
    return contests


def _merged(ours: Adapters, texts: list[str], names: list[str]) -> Callable:
    """A whole model for each adapter, its A and B in W already; each takes its own messages.

    One model stands for all of them, so it is in the caches already each time: that flatters them.
    """
    from llm.formats.finetuned import load_finetuned
    from llm.lora.inject import merge_and_unload

    device = next(ours.model.parameters()).device
    model, _, _ = load_finetuned(BUNDLED["spam"], str(device))
    merge_and_unload(model)
    encoded = ours.encode(texts, names)
    own = [[i for i, name in enumerate(names) if name == wanted] for wanted in dict.fromkeys(names)]

    @torch.no_grad()
    def run() -> None:
        for indices in own:
            batch = collate(encoded, indices, device)
            model(batch.ids, batch.lengths)

    return run


def _peft(ours: Adapters, texts: list[str], tokens: int, count: int) -> dict[str, Callable]:
    """The same with `adapter_names=` of peft on GPT-2 of transformers, of the same shape."""
    import transformers
    from peft import LoraConfig, get_peft_model

    lora = ours["a0"].record.lora
    device = next(ours.model.parameters()).device
    config = gpt2_config(ours.model.config, tanh=True)  # the faster of the two

    def build(kind, task: str) -> nn.Module:
        settings = LoraConfig(
            task_type=task,
            r=lora.rank,
            lora_alpha=lora.alpha,
            target_modules=["c_attn", "c_proj", "c_fc"],
            fan_in_fan_out=True,
            init_lora_weights=False,  # B from random numbers, too
        )
        model = get_peft_model(kind(config), settings, adapter_name="a0")
        for number in range(1, count):
            model.add_adapter(f"a{number}", settings)
        return model.to(device).eval()

    names = [f"a{i % count}" for i in range(len(texts))]
    encoded: Encoded = ours.encode(texts, names)
    batch = collate(encoded, range(len(texts)), device)
    real = torch.arange(batch.ids.shape[1], device=device) < batch.lengths[:, None]
    classifier = build(transformers.GPT2ForSequenceClassification, "SEQ_CLS")
    writer = build(transformers.GPT2LMHeadModel, "CAUSAL_LM")

    @torch.no_grad()
    def classify() -> None:
        classifier(input_ids=batch.ids, attention_mask=real.long(), adapter_names=names)

    @torch.no_grad()
    def write() -> None:
        ids = torch.full((len(texts), 1), ours.tokenizer.eot_id, device=device)
        cache = None
        for _ in range(tokens):
            answer = writer(
                input_ids=ids, past_key_values=cache, use_cache=True, adapter_names=names
            )
            cache, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)

    return {"classify, peft": classify, "write, peft": write}
