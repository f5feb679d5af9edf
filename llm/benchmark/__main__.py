"""Speed and memory of this project beside its peers: `python -m llm.benchmark SUITE --out FILE`.

Suites: `mini` and `gpt2` (training on a CPU), `prefix` (cached frozen blocks), `inference`,
`start` (the command line), `memory` (what it grows with), `busy` (beside another program),
`adapters` (many on one base), `predict` (a long file), `variants` (LoRA, QLoRA, DoRA and their
peers, on either), `limit` (what the products alone take on a CPU), `gpu` (one GPU), `gpus`
(several, under torchrun).

Every contender runs in a fresh process, all in turn and round after round, on the same messages;
what is reported are the medians of the ratios within a round, with the lowest and the highest. (On
a GPU `gpu` and `variants` run each library once, in a process of its own, and compare medians of
steps.) Weights are random: speed does not depend on them.

A machine that others use too disturbs wall-clock time. Ratios of processor time (`--threads 1`)
hardly suffer, so both are kept.
"""

import json
import os
from pathlib import Path

from llm.model.config import PRESETS
from llm.utils.files import make_folder, write_json
from llm.utils.program import Parser, positive, run

SUITES = ("mini", "gpt2", "prefix", "inference", "start", "memory")
SUITES += ("busy", "adapters", "predict", "variants", "limit", "gpu", "gpus")


def main() -> int:
    """Run a suite, print its ratios, and keep everything in a file. Returns the exit status."""
    parser = Parser(prog="python -m llm.benchmark", description=__doc__)
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--out", type=Path, help="result file (JSON)")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--steps", type=positive, default=5, help="optimizer steps a round")
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument(
        "--only", help="mini, gpt2: contenders, such as ours,full; busy: such as compare,notebooks"
    )
    parser.add_argument(
        "--whole", action="store_true", help="busy: compare with its defaults as well, minutes each"
    )
    parser.add_argument(
        "--messages", type=positive, default=5000, help="inference, busy, predict: to predict"
    )
    parser.add_argument("--shape", choices=PRESETS, default="mini", help="inference: of the model")
    parser.add_argument(
        "--seconds",
        type=float,
        default=600,
        help="gpu, gpus, variants, adapters: begin no job after",
    )
    parser.add_argument(
        "--quick", action="store_true", help="the same and limit: tiny, on any device"
    )
    parser.add_argument(
        "--counts", type=_numbers, default="1,10,100", help="adapters: how many, one after another"
    )
    parser.add_argument(
        "--peers-at-most", type=positive, default=100, help="adapters: no peer beside more of them"
    )
    parser.add_argument("--tokens", type=positive, default=32, help="adapters: to write")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="adapters, variants: where"
    )
    given = parser.parse_args()

    def suite() -> None:
        from llm.benchmark import adapters, busy, cpu, gpu, gpus, limit, prediction, variants
        from llm.training.device import pick_device
        from llm.training.distributed import is_main_process

        if given.out:
            make_folder(given.out.parent)  # what cannot be written is refused before the work
        pick_device(given.device)  # and so is a card that is not there
        own = {"busy": busy, "adapters": adapters, "predict": prediction, "gpu": gpu, "gpus": gpus}
        own |= {"variants": variants, "limit": limit}
        module = own.get(given.suite, cpu)
        content = getattr(module, given.suite)(given)
        if not is_main_process():
            return  # of the processes that torchrun started, one prints and writes
        print(json.dumps(content["ratios"], indent=1))
        if given.out:
            write_json(given.out, content)

    return run(suite, parser=parser)


def _numbers(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
