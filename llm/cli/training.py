"""The commands that train: `finetune`, `compare` and `pretrain`."""

import json
from pathlib import Path

from llm.cli.options import settings_of
from llm.cli.terminal import bits_line, metrics_line, remark
from llm.data.tasks import WRITING
from llm.lora.settings import METHODS
from llm.training.settings import (
    WRITING_RANKS,
    WRITING_RATES,
    FinetuneSettings,
    PretrainSettings,
)
from llm.utils.errors import InputError


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
    remark(options, f"written: {options.out}, {run['saved_bytes']:,} bytes of weights")


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
        remark(options, f"\nwritten: {options.out}/results.json and the figures beside it")


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
        remark(options, f"written: {options.out}; use it with --model {options.out}")
