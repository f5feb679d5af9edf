"""What a run has reached, in one file: weights, optimizer state, history, best weights.

One file, because a rename replaces one file at a time: whenever the process is killed, the folder
holds the last whole checkpoint and nothing else.
"""

import json
import math
from pathlib import Path

import torch

from llm.model.parameters import trainable_state
from llm.training import distributed
from llm.utils.errors import InputError, NotFinite
from llm.utils.files import open_tensors, write_tensors

CHECKPOINT = "checkpoint.safetensors"


class Run:
    """The state of a training run, in memory and in `path` (None: in memory alone)."""

    def __init__(self, model, optimizer, identity: dict, path: Path | None):
        self.model, self.optimizer, self.identity, self.path = model, optimizer, identity, path
        self.step = 0
        self.best: dict[str, torch.Tensor] = {}
        self.history: dict = {"curve": [], "evaluations": [], "train_seconds": 0.0, "best_step": 0}
        self.best_score: list[float] | None = None
        self._unlogged: list[tuple[int, float, torch.Tensor]] = []  # step, rate, loss
        self._last_rate = 0.0

    def note(self, rate: float, loss: torch.Tensor) -> None:
        """Count a step that was taken; its loss is not looked at yet, which may mean waiting."""
        self._unlogged.append((self.step, rate, loss))
        self.step += 1

    def log_losses(self, log_every: int) -> None:
        """Look at the losses since the last look. Raises InputError when one is not finite."""
        for step, rate, loss in self._unlogged:
            value = float(loss)
            self._refuse_nan(value, step, rate)
            if (step + 1) % log_every == 0 or step == 0:
                self.history["curve"].append({"step": step + 1, "loss": value, "lr": rate})
            self._last_rate = rate
        self._unlogged.clear()

    def evaluate(self, task, keep_best: bool) -> None:
        """Measure on validation, and keep a copy of the weights where they are the best so far.

        Raises InputError when the validation loss is not finite.
        """
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # whatever is compiled: that is for training
            metrics = task.evaluate(self.model)
        self.model.train()
        self._refuse_nan(metrics.get("loss", 0.0), self.step - 1, self._last_rate)
        self.history["evaluations"].append({"step": self.step, **metrics})
        score = list(metrics.get("score", []))
        if keep_best and score and (self.best_score is None or score > self.best_score):
            self.best_score, self.history["best_step"] = score, self.step
            self.best = {name: p.clone() for name, p in trainable_state(self.model).items()}

    @torch.no_grad()
    def restore_best(self) -> None:
        """Put the best weights back into the model, if any were kept."""
        if self.best:
            for name, parameter in trainable_state(self.model).items():
                parameter.copy_(self.best[name])

    def _refuse_nan(self, loss: float, step: int, rate: float) -> None:
        if math.isfinite(loss):
            return
        kept = self.path is not None and self.path.exists()
        raise NotFinite(
            f"the loss became {loss} at step {step + 1} with learning rate {rate:.2e}; "
            "try a lower learning rate, or fp32; "
            + (
                f"the last good weights are kept in {self.path}" if kept else "nothing was kept yet"
            ),
            settings=("lr", "precision=fp32"),
        )

    def save(self) -> None:
        """Write the checkpoint, whole or not at all; process 0 writes for all."""
        if self.path is None or not distributed.is_main_process():
            return
        tensors = {f"weights.{name}": p for name, p in trainable_state(self.model).items()}
        tensors |= {f"best.{name}": p for name, p in self.best.items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value)
        about = {
            "identity": self.identity,
            "step": self.step,
            "history": self.history,
            "best_score": self.best_score,
        }
        write_tensors(self.path, tensors, {"run": json.dumps(about)})

    def load(self) -> None:
        """Take over a checkpoint, if there is one. Raises InputError when it does not fit."""
        if self.path is None or not self.path.exists():
            return
        with open_tensors(self.path) as reader:
            self._check_identity(reader)
            names = set(reader.keys())
            parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
            expected = {f"weights.{name}" for name in parameters}
            if self.best_score is not None:
                expected |= {f"best.{name}" for name in parameters}
            kept = {name: self._kept(p) if self.step else () for name, p in parameters.items()}
            expected |= {f"optimizer.{key}.{name}" for name in kept for key in kept[name]}
            if names != expected:
                wrong = sorted(names ^ expected)[0]
                raise InputError(f"{self.path}: tensor {wrong} is missing or not expected")

            def read(kind: str, name: str, parameter: torch.Tensor) -> torch.Tensor:
                stored = reader.get_slice(f"{kind}.{name}")
                wanted = [] if kind == "optimizer.step" else list(parameter.shape)
                if stored.get_shape() != wanted or stored.get_dtype() != "F32":
                    found = f"{stored.get_dtype()} {stored.get_shape()}"
                    raise InputError(f"{self.path}: {kind}.{name} is {found}, not F32 {wanted}")
                tensor = reader.get_tensor(f"{kind}.{name}").to(parameter.device)
                if not torch.isfinite(tensor).all():
                    raise InputError(f"{self.path}: {kind}.{name} holds values that are not finite")
                return tensor

            # Everything is read before anything is changed, so that an error leaves the model be.
            weights = {name: read("weights", name, p) for name, p in parameters.items()}
            if self.best_score is not None:
                self.best = {name: read("best", name, p) for name, p in parameters.items()}
            state = {
                name: {key: read(f"optimizer.{key}", name, p) for key in kept[name]}
                for name, p in (parameters.items() if self.step else ())
            }
            if any(values.get("step", self.step) != self.step for values in state.values()):
                raise InputError(f"{self.path}: its optimizer has made another number of steps")
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        for name in state:
            self.optimizer.state[parameters[name]] = state[name]

    def _kept(self, parameter: torch.nn.Parameter) -> tuple[str, ...]:
        """What the optimizer remembers of a parameter."""
        for group in self.optimizer.param_groups:
            if group.get("orthogonal") and any(p is parameter for p in group["params"]):
                return ("exp_avg",)  # Muon
        return ("step", "exp_avg", "exp_avg_sq")

    def _check_identity(self, reader) -> None:
        """Read where the run stood; refuse a checkpoint of another run."""
        try:
            about = json.loads((reader.metadata() or {})["run"])
            identity, self.step, self.history = about["identity"], about["step"], about["history"]
            self.best_score = about["best_score"]
            _check_state(identity, self.step, self.history, self.best_score)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"{self.path} is not a checkpoint of this project ({error}); delete it and "
                "start anew"
            ) from None
        known = json.loads(json.dumps(self.identity))
        for key in sorted(set(known) | set(identity)):
            if known.get(key) != identity.get(key):
                raise InputError(
                    f"{self.path} was written with another {_difference(key, identity, known)}; "
                    "resume with the same settings, or start anew"
                )


def _check_state(identity, step, history, best_score) -> None:
    """Raise ValueError or KeyError when a checkpoint's account of itself is damaged."""
    score_is_right = best_score is None or (
        isinstance(best_score, list) and all(isinstance(value, float) for value in best_score)
    )
    lists = [history["curve"], history["evaluations"]]
    numbers = [history["train_seconds"], history["best_step"], step]
    if not (
        isinstance(identity, dict)
        and score_is_right
        and all(isinstance(entries, list) for entries in lists)
        and all(isinstance(entry, dict) for entries in lists for entry in entries)
        and all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        and isinstance(step, int)
        and step >= 0
        and all({"step", "loss", "lr"} <= set(entry) for entry in history["curve"])
    ):
        raise ValueError("its account of the run is damaged")


def _difference(key: str, old: dict, new: dict) -> str:
    """Name what differs, down to the setting."""
    before, now = old.get(key), new.get(key)
    if isinstance(before, dict) and isinstance(now, dict):
        key = next(k for k in sorted(set(before) | set(now)) if before.get(k) != now.get(k))
        before, now = before.get(key), now.get(key)
    return f"{key} ({before}, not {now})"
