"""The command line: what can be asked for. `llm.cli.commands` does it.

Nothing heavy is imported here, so that `python -m llm --help` answers at once.
"""

from llm.utils.program import Parser, positive, run, whole

PRESETS = "mini, gpt2, gpt2-medium, gpt2-large, gpt2-xl or a folder"


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        from llm.cli import commands

        getattr(commands, options.command)(options)

    return run(command, "interrupted; what was trained so far is kept, --resume goes on")


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
        added.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
        added.add_argument("--seed", type=whole, default=0, help="same seed, same numbers")
        added.add_argument("--quiet", action="store_true", help="no progress, no remarks")
        added.add_argument("--json", action="store_true", help="print JSON to stdout")
        return added

    compare = command(
        "compare",
        "train every method on the same messages and compare them",
        "compare --methods full,last_block,head,lora --seeds 3 --out runs/compare",
    )
    compare.add_argument("--methods", default="full,last_block,head,lora")
    compare.add_argument("--seeds", type=positive, default=1, help="runs a method; 3 are reported")
    compare.add_argument("--out", default="runs/compare")
    _training_options(compare)

    finetune = command(
        "finetune",
        "fine-tune a base on labelled messages",
        "finetune --method lora --rank 8 --alpha 16 --out runs/spam",
    )
    finetune.add_argument("--method", default="lora", help="full, last_block, head or lora")
    finetune.add_argument("--out", required=True)
    _training_options(finetune)

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
        'predict --from runs/spam "You have won a prize, call now"',
    )
    _from(predict)
    predict.add_argument("messages", nargs="*", help="without any: one a line from standard input")

    merge = command(
        "merge",
        "fold an adapter into its base: a plain model without LoRA layers",
        "merge --from runs/spam --out runs/spam-merged",
    )
    _from(merge)
    merge.add_argument("--out", required=True)

    export = command(
        "export",
        "write a fine-tuned folder or a base for peft or transformers",
        "export --from runs/spam --format peft --out runs/spam-peft",
    )
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="folder", help="a fine-tuned folder")
    source.add_argument("--model", help=f"a base: {PRESETS}")
    export.add_argument("--format", choices=("peft", "transformers"), required=True)
    export.add_argument("--out", required=True)

    info = command(
        "info",
        "parameters and bytes of a method, without allocating the model",
        "info --model gpt2 --method lora --rank 16",
    )
    info.add_argument("--method", default="lora", help="full, last_block, head or lora")
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
    pretrain.add_argument("--out", required=True)
    _pretraining_options(pretrain)

    bits = command(
        "bits",
        "bits per byte of a text: of a base, of xz -9 and of token frequencies",
        "bits --model mini --text unseen.txt --train book.txt",
    )
    bits.add_argument("--model", default="mini", help=PRESETS)
    bits.add_argument("--text", nargs="+", required=True, help="text files, also .xz")
    bits.add_argument("--train", nargs="+", default=[], help="where token frequencies are counted")

    generate = command("generate", "continue a text", 'generate --model mini "Once upon a time"')
    generate.add_argument("prompt")
    _base(generate)
    generate.add_argument("--tokens", type=positive, default=100, help="new tokens at most")
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    generate.add_argument("--top-k", type=positive, help="choose among the K likeliest")
    generate.add_argument("--top-p", type=float, help="choose among the likeliest, up to P in all")
    return parser


def _from(parser: Parser) -> None:
    parser.add_argument("--from", dest="folder", required=True, help="a fine-tuned folder")


def _base(parser: Parser) -> None:
    parser.add_argument("--model", default="mini", help=PRESETS)
    parser.add_argument("--weights", choices=("pretrained", "random"), default="pretrained")


def _lora(parser: Parser) -> None:
    group = parser.add_argument_group("LoRA")
    group.add_argument("--rank", type=positive, default=8)
    group.add_argument("--alpha", type=float, default=16, help="the scale is alpha / rank")
    group.add_argument("--targets", help="layer names such as W_query,W_value; or all")
    group.add_argument("--lora-dropout", type=float, default=0.0)
    group.add_argument("--rslora", action="store_true", help="the scale is alpha / sqrt(rank)")


def _training_options(parser: Parser) -> None:
    _base(parser)
    _lora(parser)
    group = parser.add_argument_group("messages")
    group.add_argument("--data", help="full, or a file of label<TAB>message; default: installed")
    group.add_argument("--task", default="spam", help="spam or question")
    group.add_argument("--balanced", action="store_true", help="train on as much ham as spam")
    group.add_argument("--limit", type=positive, help="train on so many messages only")
    group.add_argument("--split-seed", type=whole, default=0)
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=positive, default=5)
    group.add_argument("--batch-size", type=positive, default=32)
    group.add_argument("--lr", type=float, help="highest learning rate; default: the method's")
    group.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    group.add_argument("--resume", action="store_true", help="go on after an interruption")


def _pretraining_options(parser: Parser) -> None:
    parser.add_argument("--model", default="mini", help=f"the shape of {PRESETS}")
    parser.add_argument("--validation", nargs="+", default=[], help="text to measure on")
    parser.add_argument("--train-vocabulary", action="store_true", help="learn the tokens anew")
    parser.add_argument("--from-base", help="go on from a base: its shape, vocabulary and weights")
    parser.add_argument("--steps", type=positive, default=12_000)
    parser.add_argument(
        "--schedule-steps", type=positive, default=0, help="lay the schedule out for more steps"
    )
    parser.add_argument("--batch-size", type=positive, default=256, help="windows a step")
    parser.add_argument("--accumulate", type=positive, default=1, help="parts of a batch")
    parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--warmup-share", type=float, default=0.03, help="of the schedule")
    parser.add_argument(
        "--document-starts", type=float, default=0.0, help="share of windows where documents begin"
    )
    parser.add_argument(
        "--text-speak", action="store_true", help="add a copy of each conversation in text speak"
    )
    parser.add_argument("--evaluate-every", type=positive, default=1000, help="steps")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--resume", action="store_true", help="go on after an interruption")
