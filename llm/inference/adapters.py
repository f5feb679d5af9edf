"""Several adapters on one base: load, switch, and answer a batch in which each message has its own.

The base is in memory once. An adapter is what fine-tuning with LoRA left: A and B of some layers,
and a head if it tells messages apart, kilobytes. To use one means to hang its layers into the
model, to use another means to hang those of the other: references change places, nothing is copied
and no weight changes. `llm.inference.voices` lets adapters write.

    x -----> W, shared ----------------> (+) --> y
        \\                                |
         `-> A, B of the adapter in use -'        the others wait beside the model
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from llm.data.batching import Encoded, collate
from llm.data.tokenizer import Tokenizer
from llm.formats.adapter import AdapterReader
from llm.formats.base import check_vocabulary, load_base, load_tokenizer
from llm.formats.record import RunRecord, read_record
from llm.inference.evaluation import classify
from llm.inference.mixed import Groups, MixedHead, MixedLinear, share_mixed
from llm.inference.reading import read_messages
from llm.inference.stacked import Update
from llm.lora.fused import fuse
from llm.lora.inject import lora_layers
from llm.lora.layer import LinearWithLoRA
from llm.lora.quantized_linear import QuantizedLinear, quantize_linears
from llm.model.classifier import GPTClassifier
from llm.model.gpt import GPTModel
from llm.model.parameters import fingerprint
from llm.utils.errors import InputError


@dataclass(frozen=True)
class Adapter:
    """What one task adds to the base."""

    layers: dict[str, LinearWithLoRA]  # by the full name of the layer whose place they take
    head: nn.Module  # Linear; LinearWithLoRA where the targets were "all"; Identity if it writes
    record: RunRecord  # its run.json

    @cached_property
    def updates(self) -> dict[str, Update]:
        """What its layers add, by name, at hand for a batch of several adapters."""
        return {place: Update.of(layer) for place, layer in self.layers.items()}

    @property
    def labels(self) -> list[str]:
        """Names of label 0 and label 1; none of an adapter that writes."""
        return self.record.labels


class Adapters:
    """One base, and any number of adapters of which one at a time, or none, is in use.

    `model` is a GPTClassifier with the adapter in use in place. Without one its body is the base,
    untouched, and it has no head: it returns the last token's hidden state (batch, emb_dim).

    Args:
        body: the base. Its weights are shared by all adapters and never written to.
        tokenizer: the one that belongs to it.
        quantize: "nf4" or "int8" for adapters that were trained beside a base in so few bits; the
            given one is then put into them, in place. There is one base, so all adapters must
            agree in this.

    Raises InputError when the base has LoRA layers itself, or fewer tokens than the tokenizer.
    """

    def __init__(self, body: GPTModel, tokenizer: Tokenizer, quantize: str | None = None):
        if lora_layers(body):
            raise InputError("the base has LoRA layers already; give the base alone")
        check_vocabulary(tokenizer, body.config.vocab_size, tokenizer.name)
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint(body)  # once, and not once an adapter: it reads all weights
        self.quantize = quantize
        if quantize:
            quantize_linears(body, quantize)
        self.model = GPTClassifier(body.config, body=body).requires_grad_(False).eval()
        fuse(self.model)  # attention that lets an adapter's query, key and value share work
        share_mixed(self.model)  # and those of several adapters
        self.model.head = nn.Identity()
        self.in_use: str | None = None
        self._loaded: dict[str, Adapter] = {}
        # Where layers can be exchanged: the module that owns each, and its name there.
        kinds = (nn.Linear, QuantizedLinear)
        self._plain = {n: m for n, m in self.model.named_modules() if isinstance(m, kinds)}
        self._reader = AdapterReader(self._plain, next(body.parameters()).device)
        self._places = {}
        for name in self._plain:
            owner, _, child = name.rpartition(".")
            self._places[name] = (self.model.get_submodule(owner), child)

    @classmethod
    def load(cls, folders: dict[str, str | Path], device: str = "cpu") -> "Adapters":
        """Load the base that the first folder names, and all folders' adapters on it.

        Args:
            folders: {name: a folder that `finetune --method lora` wrote}.

        Raises:
            InputError: no folder, or one that does not fit; see `add`.
        """
        if not folders:
            raise InputError("no adapter to load; give at least one folder")
        first = read_record(next(iter(folders.values())))
        base = first.base
        body = load_base(base.model, base.weights, base.seed, device)
        tokenizer = load_tokenizer(base.model, body.config.vocab_size)
        adapters = cls(body, tokenizer, first.quantize)
        for name, folder in folders.items():
            adapters.add(name, folder)
        return adapters

    def __iter__(self):
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)

    def __getitem__(self, name: str) -> Adapter:
        """The adapter of a name. Raises InputError where there is none."""
        if name not in self._loaded:
            raise InputError(
                f"no adapter is called {name!r}; there are {', '.join(self) or 'none'}"
            )
        return self._loaded[name]

    def classifier(self, name: str) -> Adapter:
        """The adapter of a name. Raises InputError where there is none, or one that writes."""
        if self[name].record.writes:
            raise InputError(f"the adapter {name!r} writes; it tells no messages apart")
        return self[name]

    def add(self, name: str, folder: str | Path) -> None:
        """Load one more adapter; which one is in use stays as it is.

        Raises:
            InputError: the name is taken, the folder is not one of LoRA, was trained on another
                base, or its file is damaged or does not fit: a tensor missing, of another shape,
                not finite.
        """
        if name in self._loaded:
            raise InputError(f"an adapter is called {name!r} already; choose another name")
        record = read_record(folder)
        if record.method != "lora":
            raise InputError(f"{folder} holds no adapter (its method is {record.method})")
        base = record.base
        if record.config != self.model.config or base.fingerprint != self.fingerprint:
            raise InputError(
                f"{folder} was trained on another base ({base.model}, {base.weights}) than the one "
                "that is loaded; load it by itself"
            )
        if record.quantize != self.quantize:
            trained, loaded = (
                kind or "full precision" for kind in (record.quantize, self.quantize)
            )
            raise InputError(
                f"{folder} was trained on the base in {trained}, and the one that is loaded is in "
                f"{loaded}; load it by itself"
            )
        self._loaded[name] = Adapter(*self._reader.read(folder, record), record)

    def use(self, name: str | None) -> None:
        """Put an adapter in place of the one in use; None leaves the base alone.

        Raises:
            InputError: there is no such adapter, or the one in use was merged into the base.
        """
        chosen = None if name is None else self[name]
        if self.in_use is not None:
            current = self[self.in_use]
            if any(
                layer.merged
                for layer in (*current.layers.values(), current.head)
                if isinstance(layer, LinearWithLoRA)
            ):
                raise InputError(
                    f"the adapter {self.in_use!r} is merged into the base; unmerge it first"
                )
        self._hang(
            self._plain if chosen is None else {**self._plain, **chosen.layers},
            nn.Identity() if chosen is None else chosen.head,
        )
        self.model.pool = "last" if chosen is None else chosen.record.pool
        self.in_use = name

    def encode(self, messages: Sequence[str], names: Sequence[str] | None = None) -> Encoded:
        """Messages as token ids; the ones longer than the context lose their end.

        Each is read as the task of its adapter does (`llm.inference.reading`).

        Args:
            names: an adapter's name a message; None: the one in use, if there is one.
        """
        chosen = [self.in_use] * len(messages) if names is None else names
        tasks = [None if name is None else self[name].record.task for name in chosen]
        return read_messages(messages, tasks, self.tokenizer, self.model.config.context_length)

    def classify(self, messages: Sequence[str]) -> torch.Tensor:
        """Probabilities (messages, 2) by the adapter in use. Raises InputError without one."""
        if self.in_use is None:
            raise InputError(f"no adapter is in use; choose one of {', '.join(self)} with use()")
        self.classifier(self.in_use)
        return classify(self.model, self.encode(messages))

    def classify_mixed(self, messages: Sequence[str], names: Sequence[str]) -> torch.Tensor:
        """Each message by its own adapter: probabilities (messages, 2). See `mixed_logits`."""
        return torch.softmax(self.mixed_logits(messages, names), dim=-1)

    def mixed_logits(self, messages: Sequence[str], names: Sequence[str]) -> torch.Tensor:
        """Each message by its own adapter, all in one forward pass: one for the adapters that read
        the last token, one for those that read the mean.

        The messages are sorted by adapter, so that each adapter's tokens are one slice of what
        goes through a layer: x W for all of them at once, then x A B slice by slice.

        Args:
            names: an adapter's name a message.

        Returns:
            logits (messages, 2), on the CPU, in the order of `messages`; which adapter is in use
            stays as it is.
        """
        if len(messages) != len(names):
            raise InputError(f"{len(messages)} messages and {len(names)} names of adapters")
        logits = torch.empty(len(messages), self.model.n_classes)
        for pool in ("last", "mean"):
            mine = [i for i, name in enumerate(names) if self.classifier(name).record.pool == pool]
            if mine:
                one_pool = self._mixed([messages[i] for i in mine], [names[i] for i in mine], pool)
                logits[mine] = one_pool
        return logits

    @torch.no_grad()
    def _mixed(self, messages: Sequence[str], names: Sequence[str], pool: str) -> torch.Tensor:
        """`mixed_logits` for adapters with the same pool."""
        order = sorted(range(len(names)), key=lambda i: str(names[i]))
        groups = [
            (self[name], [i for i in order if names[i] == name])
            for name in dict.fromkeys(names[i] for i in order)
        ]
        encoded = self.encode(messages, names)
        batch = collate(encoded, order, next(self.model.parameters()).device)
        rows = [len(group) for _, group in groups]
        tokens = [sum(len(encoded.ids[i]) for i in group) for _, group in groups]

        with self.side_by_side([adapter for adapter, _ in groups], rows, tokens):
            self.model.pool = pool
            by_adapter = self.model(batch.ids, batch.lengths)  # (messages, 2)
        logits = torch.empty(len(messages), self.model.n_classes)
        logits[order] = by_adapter.float().cpu()
        return logits

    @contextmanager
    def side_by_side(
        self, groups: list[Adapter | None], rows: list[int], tokens: list[int]
    ) -> Iterator[GPTClassifier]:
        """Inside the block, the model's rows belong to several adapters, group after group.

        Args:
            groups: an adapter for each group; None for the base alone.
            rows, tokens: how many rows (messages), and tokens in them, each group has.
        """
        before = self.in_use
        mixed, same = {}, Groups(rows, tokens)
        for place, linear in self._plain.items():
            updates = [adapter and adapter.updates.get(place) for adapter in groups]
            if any(updates):
                mixed[place] = MixedLinear(linear, updates, same)
        head = MixedHead([adapter.head if adapter else nn.Identity() for adapter in groups], same)
        self.use(None)
        try:
            self._hang({**self._plain, **mixed}, head)
            yield self.model
        finally:
            self._hang(self._plain, nn.Identity())
            self.use(before)

    def _hang(self, layers: dict[str, nn.Module], head: nn.Module) -> None:
        for name, layer in layers.items():
            owner, child = self._places[name]
            setattr(owner, child, layer)
        self.model.head = head
