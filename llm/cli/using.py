"""The commands that use a model as it is: `predict`, `evaluate`, `generate` and `bits`."""

import json
from itertools import islice

from llm.cli.terminal import (
    bits_line,
    lines_of_standard_input,
    metrics_line,
    one_line,
    print_json_list,
    remark,
)
from llm.training.settings import FinetuneSettings
from llm.utils.errors import InputError

# `predict` answers so many messages together: enough for batches of like length, and however long
# the file, no more than these are in memory.
MESSAGES_AT_ONCE = 2048


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


def bits(options) -> None:
    """How well a text is predicted."""
    from llm.inference.text_bits import measure_text
    from llm.training.device import pick_device

    found = measure_text(options.model, options.text, options.train, pick_device(options.device))
    lines = [f"{name:<18} {value:.4f}" for name, value in found["bits_per_byte"].items()]
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines))


def _warn_of_cut(options, cut: int) -> None:
    if cut:
        remark(options, f"{cut} messages are longer than the context; their end was not read")
