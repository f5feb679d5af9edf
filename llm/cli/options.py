"""Options that several commands share, and what follows from them.

Every default comes from its settings class.
"""

from dataclasses import fields
from pathlib import Path

from llm.data.tasks import TASKS, WRITING
from llm.lora.settings import (
    ALIASES,
    BLOCK_TARGETS,
    INITS,
    METHODS,
    QUANTIZATIONS,
    VARIANTS,
    LoRASettings,
)
from llm.model.config import PRESETS
from llm.training.settings import (
    BATCH_SIZE,
    LABELS_ALONE,
    LEARNING_RATES,
    OPTIMIZERS,
    PRECISIONS,
    RECIPES,
    WRITING_BATCH_SIZE,
    WRITING_RATES,
    FinetuneSettings,
    PretrainSettings,
)
from llm.utils.files import refuse_to_overwrite
from llm.utils.program import Parser, positive, whole

BASES = f"{', '.join(PRESETS)} or a folder"
WEIGHTS = ("pretrained", "random")


def from_option(parser: Parser) -> None:
    """`--from`: a fine-tuned folder."""
    parser.add_argument("--from", dest="folder", required=True, help="a fine-tuned folder")


def out_option(parser: Parser) -> None:
    """`--out` and `--overwrite`: the folder to write into."""
    parser.add_argument("--out", required=True, help="the folder to write into")
    parser.add_argument(
        "--overwrite", action="store_true", help="write into it even if it holds something"
    )


def spare_the_folder(options) -> None:
    """Raise InputError where `--out` holds something and nobody said `--overwrite` or `--resume`.

    What is to be read from that very folder is the command's own business: it refuses that.
    """
    given = vars(options)
    if given.get("overwrite", True) or given.get("resume"):
        return
    if not given.get("folder") or not _same_place(options.folder, options.out):
        refuse_to_overwrite(options.out, may_go_on="resume" in given)


def settings_of(kind, options, **others):
    """Options as an object of the settings class `kind`: its fields have the options' names."""
    chosen = {
        field.name: settings_of(LoRASettings, options)
        if field.name == "lora"
        else getattr(options, field.name)
        for field in fields(kind)
        if field.name == "lora" or field.name in options
    }
    recipe = RECIPES[options.recipe] if kind is FinetuneSettings else {}
    for name in RECIPES["plain"]:  # an option that was not given is what the recipe says
        if name in chosen and chosen[name] is None:
            del chosen[name]
    return kind(**{**recipe, **chosen, **others})


def base_options(parser: Parser) -> None:
    """`--model` and `--weights`."""
    usual = FinetuneSettings
    parser.add_argument("--model", default=usual.model, help=BASES)
    parser.add_argument("--weights", choices=WEIGHTS, default=usual.weights, help="of the base")


def method_option(parser: Parser) -> None:
    """`--method`."""
    parser.add_argument(
        "--method", default=FinetuneSettings.method, help=", ".join((*METHODS, *ALIASES))
    )


def lora_options(parser: Parser) -> None:
    """Every setting of LoRA."""
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
        "--layers",
        type=_layers,
        metavar="N,N",
        help="blocks to adapt, from 0; with --bpe-dropout 0 those below are computed once; "
        "default: all",
    )
    group.add_argument(
        "--rank-pattern",
        type=_rank_pattern,
        default={},
        metavar="NAME=N,...",
        help="kinds of layer with another rank than --rank; default: none",
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
    group.add_argument(
        "--variant",
        choices=VARIANTS,
        default=usual.variant,
        help="dora: learn the length of each row of W apart from its direction",
    )
    group.add_argument(
        "--init",
        choices=INITS,
        default=usual.init,
        help="pissa: A and B start as the strongest part of W; saved as LoRA of twice the rank",
    )
    group.add_argument(
        "--quantize",
        choices=QUANTIZATIONS,
        help="keep the blocks' frozen W in 4.13 or 8 bits a weight; default: as it is",
    )


def finetuning_options(parser: Parser) -> None:
    """Every setting of a fine-tuning."""
    usual = FinetuneSettings
    base_options(parser)
    lora_options(parser)
    group = parser.add_argument_group("messages")
    group.add_argument("--data", help="full, or a file of label<TAB>message; default: installed")
    tasks = ", ".join((*TASKS, WRITING))
    group.add_argument("--task", default=usual.task, help=f"one of {tasks}")
    group.add_argument(
        "--text",
        nargs="+",
        metavar="TEXT",
        help=f"with --task {WRITING}: ham, spam or text files to learn from; default: none",
    )
    group.add_argument(
        "--mask-digits", action="store_true", help=f"with --task {WRITING}: 0 for every digit"
    )
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
    group.add_argument(
        "--batch-size",
        type=positive,
        help=f"messages; default: {BATCH_SIZE}, to write {WRITING_BATCH_SIZE}",
    )
    rates, alone, writing = (
        ", ".join(f"{method} {rate:g}" for method, rate in found.items())
        for found in (LEARNING_RATES, LABELS_ALONE, WRITING_RATES)
    )
    group.add_argument(
        "--lr",
        type=float,
        help=f"highest learning rate; default: {rates} (with --lm-loss 0: {alone}); "
        f"to write: {writing}",
    )
    group.add_argument(
        "--lr-ratio",
        type=float,
        default=usual.lr_ratio,
        help="LoRA+: how many times as fast B learns as A",
    )
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


def pretraining_options(parser: Parser) -> None:
    """Every setting of a pretraining."""
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
    option("--steps", positive, "optimizer steps")
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


def _same_place(one: str, other: str) -> bool:
    return Path(one).resolve() == Path(other).resolve()


def _layers(text: str) -> list[int]:
    return sorted({whole(number) for number in names(text)})


def _rank_pattern(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in names(text)]
    return {name.strip(): positive(rank) for name, _, rank in pairs}


def names(text: str) -> list[str]:
    """An option's type: names, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def ranks(text: str) -> list[int]:
    """An option's type: numbers of at least 1, separated by commas."""
    return [positive(number) for number in names(text)]


def _targets(text: str) -> list[str] | str:
    found = names(text)
    return "all" if found == ["all"] else found


def _usual(name: str, text: str) -> str:
    return f"{text}; default: {getattr(FinetuneSettings, name)}"
