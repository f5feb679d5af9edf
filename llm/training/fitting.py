"""What all fine-tuning shares once model and task are there: train, and account for it."""

import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llm.formats.finetuned import base_state, save_finetuned
from llm.formats.record import BaseRecord, RunRecord
from llm.model.parameters import fingerprint, parameter_counts
from llm.training import distributed
from llm.training.checkpoint import CHECKPOINT
from llm.training.compiling import estimate
from llm.training.device import autocast, peak_memory_bytes
from llm.training.loop import train
from llm.training.memory import memory_account
from llm.training.settings import FinetuneSettings, TrainSettings
from llm.training.speed import compiled_blocks, frozen_in_bfloat16
from llm.utils.files import remove, write_json

# On a GPU messages are padded to a multiple of so many tokens: few shapes of batches to record.
RECORDED_WIDTH = 32


@dataclass(frozen=True)
class Fitting:
    """Where and as what a training runs.

    Args:
        settings: of the run.
        out: its folder.
        resume: go on from the folder's checkpoint.
        device: "cpu", "cuda" or "mps".
        quiet: no progress on stderr.
        graphs: let a GPU record its steps (`llm.training.graphs.CUDAGraphSteps`).
        compiled: whether to compile the blocks; None: where it pays (`llm.training.compiling`).
    """

    settings: FinetuneSettings
    out: Path
    resume: bool
    device: str
    quiet: bool
    graphs: bool = True
    compiled: bool | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether CUDA graphs can be recorded, and the allocator knows its peak."""
        return self.device == "cuda"

    def memory_in_use(self) -> int:
        """Bytes in use before the model is there, and the peak set back to it where that can be."""
        if not self.on_gpu:
            return peak_memory_bytes(self.device)
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def train(
        self,
        model,
        task,
        base: BaseRecord,
        data_sha256,
        examples: int,
        per_epoch: int,
        memory_before: int,
        cuda_graphs: bool,
        prefix_seconds: float = 0.0,
    ) -> tuple[dict, dict]:
        """Train the model in place.

        Args:
            model, task: as `llm.training.loop.train` takes them; the task has a `largest_batch`.
            base: that the model was made from; it must be unchanged at the end, for `lora`.
            data_sha256: tells a checkpoint of other data from one of this run.
            examples: messages or documents in an epoch.
            per_epoch: steps in an epoch.
            memory_before: what `memory_in_use` said.
            cuda_graphs: the batches come in few shapes.
            prefix_seconds: that went into what training computes once.

        Returns:
            (the history, the results so far: a run of results.json without metrics)
        """
        settings, on_gpu = self.settings, self.on_gpu
        training = TrainSettings(
            steps=settings.epochs * per_epoch,
            lr=settings.lr,
            lr_ratio=settings.lr_ratio if settings.method == "lora" else 1.0,
            evaluate_every=0 if settings.all_messages else per_epoch,
            checkpoint_every=per_epoch,
            keep_best=settings.keep == "best" and not settings.all_messages,
            precision=settings.precision,
            cuda_graphs=on_gpu and cuda_graphs and self.graphs,
            seed=settings.seed,
        )
        identity = {"finetuning": settings.to_dict(), "data": data_sha256, "base": asdict(base)}
        # The base's own fingerprint is of W as it was before it was put into codes.
        untouched = body_fingerprint(model) if settings.lora.quantize else base.fingerprint
        lower = on_gpu and settings.precision == "bf16" and settings.method == "lora"
        with frozen_in_bfloat16(model) if lower else nullcontext():
            if lower:
                torch.cuda.reset_peak_memory_stats()  # the weights in float32 are gone
            with autocast(self.device, settings.precision):
                account = memory_account(model, lambda: task.loss(model, task.largest_batch()))
            compiles = self._compiles(model, task, training, account)
            with compiled_blocks(model) if compiles else nullcontext():
                history = train(model, task, training, self.out, self.resume, identity, self.quiet)
            peak = peak_memory_bytes(self.device) - memory_before

        seconds = history["train_seconds"] + prefix_seconds
        counts = parameter_counts(model)
        lora = settings.lora if settings.method == "lora" else None
        return history, {
            "method": settings.method,
            "seed": settings.seed,
            "rank": lora.rank if lora else None,
            "alpha": lora.alpha if lora else None,
            "quantize": lora.quantize if lora else None,
            "total_parameters": counts["total"],
            "trainable_parameters": counts["trainable"],
            "saved_bytes": 0,
            "memory_bytes": account,
            "peak_memory_bytes": peak,
            "train_seconds": seconds,
            "examples_per_second": settings.epochs * examples / seconds,
            "learning_rate": settings.lr,
            "split_seed": settings.split_seed,
            "kept_epoch": history["best_step"] / per_epoch or settings.epochs,
            "base_unchanged": body_fingerprint(model) == untouched,
        }

    def _compiles(self, model, task, training: TrainSettings, account: dict) -> bool:
        """Decide, and say what was decided and why."""
        if not training.cuda_graphs:
            return False  # a CPU; or what frozen blocks made is kept, which comes in any shape
        card = torch.cuda.get_device_properties(0).total_memory
        estimated = estimate(
            model.config,
            self.settings,
            training.steps,
            task.shapes(),
            distributed.world_size(),
            sum(account.values()) / card,
        )
        compiled = estimated.pays if self.compiled is None else self.compiled
        if not self.quiet and distributed.is_main_process():
            print(estimated.describe(compiled), file=sys.stderr)
        return compiled

    def save(
        self,
        model,
        base: BaseRecord,
        history: dict,
        results: dict,
        data: dict,
        labels: list[str],
        pool: str = "last",
    ) -> RunRecord:
        """Leave the finished folder, of process 0. Returns the record as it was written."""
        settings = self.settings
        record = RunRecord(
            config=model.config,
            method=settings.method,
            task=settings.task,
            labels=labels,
            base=base,
            lora=settings.lora if settings.method == "lora" else None,
            pool=pool,
            settings=settings.to_dict(),
            data=data,
            torch=torch.__version__,
            device=self.device,
            results=results,
        )
        if distributed.is_main_process():
            write_json(self.out / "history.json", history)
            record = save_finetuned(self.out, model, record)
            remove(self.out / CHECKPOINT)
        return record


def body_fingerprint(model) -> str:
    """The fingerprint of the body as it would be without its LoRA layers."""
    return fingerprint(base_state(getattr(model, "body", model)))
