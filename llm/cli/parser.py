"""The command line: what can be asked for. `llm.cli.commands` does it.

Nothing heavy is imported here, so that `python -m llm --help` answers at once. Every default of a
training comes from its settings class, so that a run from Python is the same run.
"""

from llm.data.tasks import TASKS
from llm.lora.settings import BLOCK_TARGETS, METHODS, LoRASettings
from llm.model.config import PRESETS
from llm.training.settings import (
    DEVICES,
    LEARNING_RATES,
    OPTIMIZERS,
    PRECISIONS,
    RECIPES,
    FinetuneSettings,
    PretrainSettings,
)
from llm.utils.program import Parser, positive, run, whole

BASES = f"{', '.join(PRESETS)} or a folder"
WEIGHTS = ("pretrained", "random")


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        from llm.cli import commands

        getattr(commands, options.command)(options)

    interrupted = "interrupted; what was trained so far is kept, --resume goes on"
    return run(command, interrupted, options.parser)


def build_parser() -> Parser:
    """All commands with all their options."""
    parser = Parser(
        prog="python -m llm",
        description="GPT-2 from scratch, adapted to tell spam from real text messages with LoRA.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, example: str) -> Parser:
        added = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=f"example: python -m llm {example}",
        )
        added.set_defaults(parser=added)
        added.add_argument("--device", choices=DEVICES, default="auto", help="where to compute")
        added.add_argument("--seed", type=whole, default=0, help="same seed, same numbers")
        added.add_argument("--quiet", action="store_true", help="no progress, no remarks")
        added.add_argument("--json", action="store_true", help="print JSON to stdout")
        return added

    compare = command(
        "compare",
        "train every method on the same messages and compare them",
        "compare --methods full,last_block,head,lora --seeds 3 --out runs/compare",
    )
    compare.add_argument("--methods", default=",".join(METHODS), help="separated by commas")
    compare.add_argument("--seeds", type=positive, default=1, help="runs a method and split")
    compare.add_argument(
        "--splits", type=positive, default=1, help="splits of the messages; 10 are reported"
    )
    _out(compare, default="runs/compare")
    _finetuning_options(compare)

    finetune = command(
        "finetune",
        "fine-tune a base on labelled messages",
        "finetune --method lora --rank 8 --alpha 16 --out runs/spam",
    )
    _method(finetune)
    _out(finetune)
    finetune.add_argument(
        "--all-messages",
        action="store_true",
        help="train on all messages: for a model to use, nothing is measured",
    )
    _finetuning_options(finetune)

    evaluate = command(
        "evaluate",
        "measure a fine-tuned folder on labelled messages",
        "evaluate --from runs/spam --data messages.tsv --json",
    )
    _from(evaluate)
    evaluate.add_argument("--data", required=True, help="lines of label<TAB>message")

    predict = command(
        "predict",
        "label messages, with a probability each",
        'predict --from data/adapters/spam "WINNER!! Claim your prize, call 09061701461"',
    )
    _from(predict)
    predict.add_argument("messages", nargs="*", help="without any: one a line from standard input")

    merge = command(
        "merge",
        "fold an adapter into its base: a plain model without LoRA layers",
        "merge --from runs/spam --out runs/spam-merged",
    )
    _from(merge)
    _out(merge)

    export = command(
        "export",
        "write a fine-tuned folder or a base for peft or transformers",
        "export --from runs/spam --format peft --out runs/spam-peft",
    )
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="folder", help="a fine-tuned folder")
    source.add_argument("--model", help=f"a base: {BASES}")
    formats = ("peft", "transformers")
    export.add_argument("--format", choices=formats, required=True, help="whose format")
    _out(export)

    info = command(
        "info",
        "parameters and bytes of a method, without allocating the model",
        "info --model gpt2 --method lora --rank 16",
    )
    _method(info)
    _base(info)
    _lora(info)

    download = command("download", "fetch GPT-2's weights, or all messages", "download gpt2")
    download.add_argument("what", help="gpt2, gpt2-medium, gpt2-large, gpt2-xl or sms")

    pretrain = command(
        "pretrain",
        "train a base from scratch",
        "pretrain --corpus book.txt --out runs/base --steps 300 --batch-size 16",
    )
    pretrain.add_argument("--corpus", nargs="+", required=True, help="text files, also .xz")
    _out(pretrain)
    _pretraining_options(pretrain)

    bits = command(
        "bits",
        "bits per byte of a text: of a base, of xz -9 and of token frequencies",
        "bits --model mini --text unseen.txt --train book.txt",
    )
    bits.add_argument("--model", default=FinetuneSettings.model, help=BASES)
    bits.add_argument("--text", nargs="+", required=True, help="text files, also .xz")
    bits.add_argument(
        "--train", nargs="+", default=[], help="text to count tokens in; default: none"
    )

    generate = command("generate", "continue a text", 'generate --model mini "Once upon a time"')
    generate.add_argument("prompt", help="the text to continue")
    _base(generate)
    generate.add_argument("--tokens", type=positive, default=100, help="new tokens at most")
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    generate.add_argument(
        "--top-k", type=positive, help="choose among the K likeliest; default: all"
    )
    generate.add_argument(
        "--top-p", type=float, help="choose among the likeliest, up to P in all; default: 1"
    )
    return parser


def _from(parser: Parser) -> None:
    parser.add_argument("--from", dest="folder", required=True, help="a fine-tuned folder")


def _out(parser: Parser, default: str | None = None) -> None:
    parser.add_argument(
        "--out", default=default, required=not default, help="the folder to write into"
    )


def _base(parser: Parser) -> None:
    usual = FinetuneSettings
    parser.add_argument("--model", default=usual.model, help=BASES)
    parser.add_argument("--weights", choices=WEIGHTS, default=usual.weights, help="of the base")


def _method(parser: Parser) -> None:
    parser.add_argument("--method", default=FinetuneSettings.method, help=", ".join(METHODS))


def _lora(parser: Parser) -> None:
    usual = LoRASettings
    group = parser.add_argument_group("LoRA")
    group.add_argument("--rank", type=positive, default=usual.rank, help="columns of A")
    group.add_argument("--alpha", type=float, default=usual.alpha, help="the scale is alpha / rank")
    group.add_argument(
        "--targets",
        type=_targets,
        default=list(BLOCK_TARGETS),
        help=f"layers to adapt, or all; default: {','.join(BLOCK_TARGETS)}",
    )
    group.add_argument(
        "--lora-dropout",
        dest="dropout",
        metavar="P",
        type=float,
        default=usual.dropout,
        help="share of the inputs to A that is zeroed",
    )
    group.add_argument("--rslora", action="store_true", help="the scale is alpha / sqrt(rank)")


def _targets(text: str) -> list[str] | str:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return "all" if names == ["all"] else names


def _finetuning_options(parser: Parser) -> None:
    usual = FinetuneSettings
    _base(parser)
    _lora(parser)
    group = parser.add_argument_group("messages")
    group.add_argument("--data", help="full, or a file of label<TAB>message; default: installed")
    group.add_argument("--task", default=usual.task, help=" or ".join(TASKS))
    group.add_argument("--balanced", action="store_true", help="train on as much ham as spam")
    group.add_argument("--limit", type=positive, help="messages to train on; default: all")
    group.add_argument(
        "--split-seed", type=whole, default=usual.split_seed, help="which messages are the test"
    )
    group.add_argument(
        "--variants-apart",
        dest="variants_together",
        action="store_false",
        help="let variants of a message fall into different parts, as published figures do",
    )
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, default=usual.epochs, help="passes over the data")
    group.add_argument("--batch-size", type=positive, default=usual.batch_size, help="messages")
    rates = ", ".join(f"{method} {rate:g}" for method, rate in LEARNING_RATES.items())
    group.add_argument("--lr", type=float, help=f"highest learning rate; default: {rates}")
    group.add_argument(
        "--recipe",
        choices=RECIPES,
        default="default",
        help="plain: --pool last --lm-loss 0 --bpe-dropout 0 --keep best",
    )
    group.add_argument(
        "--pool", choices=("mean", "last"), help=_usual("pool", "what the head reads")
    )
    group.add_argument(
        "--lm-loss", type=float, help=_usual("lm_loss", "weight of the next-token loss")
    )
    group.add_argument(
        "--bpe-dropout", type=float, help=_usual("bpe_dropout", "merges left out in training")
    )
    group.add_argument(
        "--keep", choices=("last", "best"), help=_usual("keep", "which epoch's weights")
    )
    group.add_argument(
        "--precision", choices=PRECISIONS, default=usual.precision, help="of matrix products"
    )
    group.add_argument("--resume", action="store_true", help="go on after an interruption")


def _usual(name: str, text: str) -> str:
    return f"{text}; default: {getattr(FinetuneSettings, name)}"


def _pretraining_options(parser: Parser) -> None:
    usual = PretrainSettings

    def option(flag: str, type, help: str) -> None:
        default = getattr(usual, flag[2:].replace("-", "_"))
        parser.add_argument(flag, type=type, default=default, help=help)

    parser.add_argument("--model", default=FinetuneSettings.model, help=f"the shape of {BASES}")
    parser.add_argument(
        "--validation",
        nargs="+",
        default=[],
        help="text to measure on; default: a part of the corpus",
    )
    parser.add_argument("--train-vocabulary", action="store_true", help="learn the tokens anew")
    parser.add_argument(
        "--from-base",
        help="a base to go on from, with its shape and vocabulary; default: from scratch",
    )
    option("--steps", positive, "optimiser steps")
    option("--schedule-steps", positive, "lay the schedule out for more steps; default: --steps")
    option("--batch-size", positive, "windows a step")
    option("--accumulate", positive, "parts of a batch")
    option("--lr", float, "highest learning rate")
    parser.add_argument(
        "--optimizer", choices=OPTIMIZERS, default=usual.optimizer, help="of the matrices"
    )
    option("--weight-decay", float, "on matrices")
    option("--warmup-share", float, "of the schedule")
    option("--document-starts", float, "share of windows where documents begin")
    parser.add_argument(
        "--text-speak", action="store_true", help="add a copy of each conversation in text speak"
    )
    option("--evaluate-every", positive, "steps")
    parser.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default=usual.precision,
        help="of products; auto: bf16 on a GPU, fp32 elsewhere",
    )
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
