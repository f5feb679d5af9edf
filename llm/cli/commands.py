"""What each command of `llm.cli.parser` does: read options, call the library, print."""

import json
import sys
from itertools import islice
from pathlib import Path

from llm.cli.info import info as info  # a command like the others
from llm.cli.options import settings_of
from llm.cli.terminal import (
    bits_line,
    lines_of_standard_input,
    metrics_line,
    one_line,
    print_json_list,
)
from llm.data.tasks import WRITING
from llm.lora.settings import METHODS
from llm.training.settings import (
    WRITING_RANKS,
    WRITING_RATES,
    FinetuneSettings,
    PretrainSettings,
)
from llm.utils.errors import InputError

# `predict` answers so many messages together: enough for batches of like length, and however long
# the file, no more than these are in memory.
MESSAGES_AT_ONCE = 2048


def compare(options) -> None:
    """Train all methods, write results and figures, print the table."""
    settings = settings_of(FinetuneSettings, options)
    where = ("out", "lr", "resume", "device", "quiet")
    common = {
        "seeds": list(range(options.seed, options.seed + options.seeds)),
        "splits": list(range(options.split_seed, options.split_seed + options.splits)),
        "settings": settings,
        **{name: getattr(options, name) for name in where},
    }
    if settings.writes:
        from llm.figures.voices import voice_figures as figures
        from llm.studies.voice_summary import voice_table as table
        from llm.studies.voices import compare_voices, ways_of

        ways = ways_of(options.methods or list(WRITING_RATES), options.ranks or WRITING_RANKS)
        results = compare_voices(ways, search=options.search, **common)
    else:
        from llm.figures.comparison import comparison_figures as figures
        from llm.studies.compare import compare
        from llm.studies.tables import table

        for name in ("ranks", "search"):
            if getattr(options, name):
                raise InputError(
                    f"{name} is for comparing models that write", settings=(name, f"task={WRITING}")
                )
        methods = list(METHODS) if options.methods is None else options.methods
        results = compare(methods, **common)
    figures(results, Path(options.out))
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        print(table(results))
        _say(options, f"\nwritten: {options.out}/results.json and the figures beside it")


def finetune(options) -> None:
    """One run."""
    from llm.training import distributed
    from llm.training.finetuning import finetune

    record = finetune(
        settings_of(FinetuneSettings, options),
        options.out,
        options.resume,
        options.device,
        options.quiet,
        report=not options.json,
        compiled=options.compile,
    )
    if not distributed.is_main_process():
        return  # of the processes that torchrun started, one prints
    if options.json:
        print(json.dumps(record.to_dict(), indent=2))
        return
    run = record.results
    print(f"{run['trainable_parameters']:,} of {run['total_parameters']:,} trained")
    if "test" in run:
        print((bits_line if record.writes else metrics_line)(run["test"]))
    _say(options, f"written: {options.out}, {run['saved_bytes']:,} bytes of weights")


def evaluate(options) -> None:
    """Measure a folder on labelled messages, or a model that writes on a text."""
    from llm.data.tsv import read_labelled
    from llm.formats.finetuned import load_finetuned
    from llm.inference.evaluation import classification_metrics, classify
    from llm.inference.reading import read_messages
    from llm.training.device import pick_device

    model, tokenizer, record = load_finetuned(options.folder, pick_device(options.device))
    if record.writes:
        from llm.inference.log_probabilities import measure_text_file

        metrics = measure_text_file(model, tokenizer, options.data, record.masks_digits)
        print(json.dumps(metrics, indent=2) if options.json else bits_line(metrics))
        return
    messages = read_labelled(options.data, record.labels)
    tasks = [record.task] * len(messages)
    encoded = read_messages(messages, tasks, tokenizer, model.config.context_length)
    metrics = classification_metrics(encoded.labels, classify(model, encoded)[:, 1])
    metrics = {"messages": len(messages), "cut": encoded.cut, **metrics}
    print(json.dumps(metrics, indent=2) if options.json else metrics_line(metrics))
    _warn_of_cut(options, encoded.cut)


def predict(options) -> None:
    """Label messages from the arguments, or one a line from standard input."""
    from llm.formats.finetuned import load_finetuned
    from llm.inference.evaluation import classify
    from llm.inference.reading import read_messages
    from llm.training.device import pick_device

    for number, text in enumerate(options.messages, start=1):
        if not text.strip():
            raise InputError(f"message {number} is empty; there is nothing to label")
    model, tokenizer, record = load_finetuned(
        options.folder, pick_device(options.device), writes=False
    )
    cut = 0

    def answers():
        nonlocal cut
        messages = iter(options.messages or lines_of_standard_input())
        while texts := list(islice(messages, MESSAGES_AT_ONCE)):
            encoded = read_messages(
                texts, [record.task] * len(texts), tokenizer, model.config.context_length
            )
            cut += encoded.cut
            for text, probabilities in zip(texts, classify(model, encoded).tolist(), strict=True):
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                label, probability = record.labels[best], probabilities[best]
                yield {"label": label, "probability": probability, "message": text}

    if options.json:
        print_json_list(answers())
    else:
        for answer in answers():
            print(f"{answer['label']}\t{answer['probability']:.4f}\t{one_line(answer['message'])}")
    _warn_of_cut(options, cut)


def merge(options) -> None:
    """Fold an adapter into its base."""
    from llm.formats.finetuned import load_finetuned, save_finetuned
    from llm.lora.inject import lora_layers, merge_and_unload, update_length
    from llm.lora.quantized_linear import round_linears

    if Path(options.out).resolve() == Path(options.folder).resolve():
        raise InputError(
            f"{options.folder} is what is to be merged, and is kept; choose another folder",
            settings=("out",),
        )
    model, _, record = load_finetuned(options.folder)
    if not lora_layers(model):
        raise InputError(f"{options.folder} has no LoRA layers ({record.method}); nothing to do")
    if options.requantize and not record.quantize:
        raise InputError(
            f"{options.folder} was trained on a base in full precision; there is nothing to "
            "requantise to",
            settings=("requantize",),
        )
    moved = {"update": update_length(model)} if options.requantize else {}
    merge_and_unload(model)
    if options.requantize:
        moved["rounding"] = round_linears(model, record.quantize)
    model.requires_grad_(True)  # all of it is stored
    save_finetuned(options.out, model, record.merged(options.folder))
    parameters = sum(p.numel() for p in model.parameters())
    answer = {"out": options.out, "parameters": parameters, **moved}
    print(json.dumps(answer) if options.json else f"written: {options.out}, a plain model")
    if moved:
        _say(
            options,
            f"the adapter moves W by {moved['update']:.3g}, rounding to {record.quantize} by "
            f"{moved['rounding']:.3g} (lengths of all changes together)",
        )
    elif record.quantize:
        _say(options, f"its W is the numbers that {record.quantize} stood for, and the update")


def export(options) -> None:
    """Write for peft or transformers."""
    from llm.formats.export import export_folder

    written = export_folder(options.format, options.out, options.folder, options.model)
    print(json.dumps(written) if options.json else f"written: {options.out}")
    kind = written["quantize"]
    if kind and options.format == "peft":
        _say(
            options,
            f"the adapter was trained on the base in {kind}: on the base as it is, it answers a "
            "little differently",
        )
    elif kind:
        _say(options, f"its W is the numbers that {kind} stood for, and the update")


def import_adapter(options) -> None:
    """An adapter of peft's as a folder of ours."""
    from llm.formats.imported import import_folder

    labels = [label.strip() for label in options.labels.split(",")]
    base = (options.model, options.weights, options.seed)
    record = import_folder(options.folder, options.out, *base, labels)
    answer = {"out": options.out, "task": record.task, "rank": record.lora.rank}
    print(json.dumps(answer) if options.json else f"written: {options.out}, task {record.task}")


def download(options) -> None:
    """Fetch GPT-2's weights from the hub, or the whole message collection."""
    if options.what == "sms":
        from llm.data.download import download_sms

        where = download_sms(quiet=options.quiet)
    else:
        from llm.data.hub import download

        where = download(options.what)
    print(json.dumps({"path": str(where)}) if options.json else f"ready: {where}")


def generate(options) -> None:
    """Continue a text."""
    import torch

    from llm.formats.base import load_base, load_tokenizer
    from llm.formats.finetuned import load_finetuned
    from llm.inference.generate import generate
    from llm.training.device import pick_device

    device = pick_device(options.device)
    if options.folder:
        if options.model != FinetuneSettings.model:
            raise InputError("a fine-tuned folder names its base itself", settings=("model",))
        model, tokenizer, _ = load_finetuned(options.folder, device, writes=True)
        prompt = [tokenizer.eot_id, *tokenizer.encode(options.prompt)]  # as documents begin
    else:
        model = load_base(options.model, options.weights, options.seed)
        tokenizer = load_tokenizer(options.model, model.config.vocab_size)
        prompt = tokenizer.encode(options.prompt) or [tokenizer.eot_id]
    ids = generate(
        model.to(device).eval(),
        torch.tensor([prompt], device=device),  # (1, tokens)
        options.tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop=tokenizer.eot_id,
        seed=options.seed,
    )
    new = [token for token in ids[0, len(prompt) :].tolist() if token != tokenizer.eot_id]
    text = tokenizer.decode(new)
    if options.json:
        print(json.dumps({"prompt": options.prompt, "text": text, "tokens": len(new)}))
    else:
        print(options.prompt + text)


def pretrain(options) -> None:
    """A base from scratch."""
    from llm.figures.studies import pretraining_figure
    from llm.figures.style import save_figure
    from llm.formats.base import load_config
    from llm.training import distributed
    from llm.training.pretraining import pretrain

    log = pretrain(
        options.corpus,
        options.out,
        settings_of(PretrainSettings, options),
        load_config(options.model),
        options.validation,
        options.train_vocabulary,
        options.device,
        options.resume,
        options.quiet,
        options.from_base,
    )
    if not distributed.is_main_process():
        return  # of the processes that torchrun started, one writes and prints
    save_figure(pretraining_figure(log), Path(options.out) / "curve.png")
    if options.json:
        print(json.dumps(log))
    else:
        print(f"{log['evaluations'][-1]['bits_per_byte']:.3f} bits per byte of unseen text")
        _say(options, f"written: {options.out}; use it with --model {options.out}")


def bits(options) -> None:
    """How well a text is predicted."""
    from llm.inference.text_bits import measure_text
    from llm.training.device import pick_device

    found = measure_text(options.model, options.text, options.train, pick_device(options.device))
    lines = [f"{name:<18} {value:.4f}" for name, value in found["bits_per_byte"].items()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))


def _warn_of_cut(options, cut: int) -> None:
    if cut:
        _say(options, f"{cut} messages are longer than the context; their end was not read")


def _say(options, text: str) -> None:
    if not options.quiet:
        print(text, file=sys.stderr)
