"""The command line: what can be asked for. `llm.cli.commands` does it.

Nothing heavy is imported here, so that `python -m llm --help` answers at once. Every default of a
training comes from its settings class, so that a run from Python is the same run.
"""

from argparse import BooleanOptionalAction

from llm.cli.options import (
    BASES,
    base_options,
    finetuning_options,
    from_option,
    lora_options,
    method_option,
    names,
    out_option,
    pretraining_options,
    ranks,
    spare_the_folder,
)
from llm.data.tasks import WRITING
from llm.data.tsv import LABELS
from llm.lora.settings import ALIASES, METHODS
from llm.training.settings import (
    DEVICES,
    WRITING_RANKS,
    WRITING_RATES,
    FinetuneSettings,
)
from llm.utils.program import Parser, positive, run, whole


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    options = build_parser().parse_args(arguments)

    def command() -> None:
        from llm.cli import commands

        spare_the_folder(options)

        getattr(commands, options.action)(options)

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
        added.set_defaults(parser=added, action=name)
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
    compare.add_argument(
        "--methods",
        type=names,
        help=f"separated by commas; {', '.join(ALIASES)}: a variant of lora by name; default: "
        f"{','.join(METHODS)}, to write {','.join(WRITING_RATES)}",
    )
    compare.add_argument(
        "--ranks",
        type=ranks,
        help=f"with --task {WRITING}: LoRA once for each; default: "
        f"{','.join(map(str, WRITING_RANKS))}",
    )
    compare.add_argument(
        "--search",
        action="store_true",
        help=f"with --task {WRITING}: look for a better rate of each on validation first",
    )
    compare.add_argument("--seeds", type=positive, default=1, help="runs a method and split")
    compare.add_argument(
        "--splits", type=positive, default=1, help="splits of the messages; 10 are reported"
    )
    compare.add_argument("--out", default="runs/compare", help="the folder to write into")
    finetuning_options(compare)

    finetune = command(
        "finetune",
        "fine-tune a base on labelled messages, or on text, to write",
        "finetune --method lora --rank 8 --alpha 16 --out runs/spam",
    )
    method_option(finetune)
    out_option(finetune)
    finetune.add_argument(
        "--all-messages",
        action="store_true",
        help="train on all messages or documents: for a model to use, nothing is measured",
    )
    finetuning_options(finetune)
    finetune.add_argument(
        "--compile",
        action=BooleanOptionalAction,
        help="compile the blocks, on a CUDA GPU; default: where the run is long enough to pay",
    )

    evaluate = command(
        "evaluate",
        "measure a fine-tuned folder on labelled messages, or on text if it writes",
        "evaluate --from runs/spam --data messages.tsv --json",
    )
    from_option(evaluate)
    evaluate.add_argument(
        "--data",
        required=True,
        help="lines of label<TAB>message; for a folder that writes a text file",
    )

    predict = command(
        "predict",
        "label messages, with a probability each",
        'predict --from data/adapters/spam "WINNER!! Claim your prize, call 09061701461"',
    )
    from_option(predict)
    predict.add_argument(
        "messages",
        nargs="*",
        help="without any: one a line from standard input, where blank lines are passed over",
    )

    merge = command(
        "merge",
        "fold an adapter into its base: a plain model without LoRA layers",
        "merge --from runs/spam --out runs/spam-merged",
    )
    from_option(merge)
    out_option(merge)
    merge.add_argument(
        "--requantize",
        action="store_true",
        help="of a folder trained with --quantize: round the merged W to the same levels again, "
        "and say how far that moves it; without, it is exact",
    )

    export = command(
        "export",
        "write a fine-tuned folder or a base for peft or transformers",
        "export --from runs/spam --format peft --out runs/spam-peft",
    )
    source = export.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--from", dest="folder", help="a fine-tuned folder (this or --model is required)"
    )
    source.add_argument("--model", help=f"a base: {BASES} (this or --from is required)")
    formats = ("peft", "transformers")
    export.add_argument("--format", choices=formats, required=True, help="whose format")
    out_option(export)

    import_ = command(
        "import",
        "make an adapter that peft trained on GPT-2 a fine-tuned folder",
        "import --from FOLDER --model gpt2 --out runs/imported",
    )
    import_.set_defaults(action="import_adapter")
    import_.add_argument(
        "--from", dest="folder", required=True, help="adapter_config.json and its tensors"
    )
    import_.add_argument(
        "--labels",
        default=",".join(LABELS),
        help="names of the two classes, in the order of the head's outputs",
    )
    base_options(import_)
    out_option(import_)

    info = command(
        "info",
        "parameters and bytes of a method or a fine-tuned folder, without allocating the model",
        "info --model gpt2 --method lora --rank 16",
    )
    info.add_argument(
        "--from",
        dest="folder",
        help="a fine-tuned folder, which names base, method and rank itself; default: none",
    )
    method_option(info)
    base_options(info)
    lora_options(info)

    download = command("download", "fetch GPT-2's weights, or all messages", "download gpt2")
    download.add_argument("what", help="gpt2, gpt2-medium, gpt2-large, gpt2-xl or sms")

    pretrain = command(
        "pretrain",
        "train a base from scratch",
        "pretrain --corpus book.txt --out runs/base --steps 300 --batch-size 16",
    )
    pretrain.add_argument("--corpus", nargs="+", required=True, help="text files, also .xz")
    out_option(pretrain)
    pretraining_options(pretrain)

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

    generate = command(
        "generate",
        "continue a text, as the base or as a model that learned to write",
        'generate --from data/adapters/spam_voice "Congratulations"',
    )
    generate.add_argument("prompt", help="the text to continue")
    generate.add_argument(
        "--from", dest="folder", help="a fine-tuned folder that writes; default: the base"
    )
    base_options(generate)
    generate.add_argument("--tokens", type=positive, default=100, help="new tokens at most")
    generate.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest")
    generate.add_argument(
        "--top-k", type=positive, help="choose among the K likeliest; default: all"
    )
    generate.add_argument(
        "--top-p", type=float, help="choose among the likeliest, up to P in all; default: 1"
    )
    return parser
