"""Which run comes next: for each cell first its own learning rate, then the other seeds or splits.

A rate is chosen on the validation part alone, from a grid of steps of 2, which is made longer as
long as the best rate is at its end. A run that came to no finite number counts as infinitely bad.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from llm.studies.knob_cells import TASKS, WRITING, Cell

STEP = 2.0
MOST_RATES = 9
FEW = 5  # seeds of the writing task that every cell gets before any gets more


@dataclass(frozen=True)
class Key:
    """Which run of a cell: at what rate, on which of the task's units."""

    task: str
    cell: str
    rate: float
    unit: int


@dataclass
class Search:
    """A cell on a task.

    Args:
        units, searched, rates, most_rates: how many; fewer for a trial of the program.
        found: the runs so far, by rate and unit: what `llm.studies.knobs` keeps of a record.
    """

    cell: Cell
    task: str
    units: int
    searched: int
    rates: list[float]
    most_rates: int = MOST_RATES
    found: dict[tuple[float, int], dict] = field(default_factory=dict)

    def validation(self, rate: float) -> float | None:
        """Mean over the searched units, inf where one has no number; None where one is missing."""
        runs = [self.found.get((rate, unit)) for unit in range(self.searched)]
        if None in runs:
            return None
        values = [run["validation"] for run in runs]
        return math.inf if None in values else sum(values) / len(values)

    def best(self) -> float | None:
        """The rate that is best on the validation part so far; None while any is missing."""
        if not self.rates or None in (values := [self.validation(rate) for rate in self.rates]):
            return None
        return self.rates[values.index(min(values))]

    def begin_with_found(self) -> None:
        """Let the grid be what has been tried already, if anything has; it grows from there."""
        self.rates = sorted({rate for rate, _ in self.found}) or self.rates

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is at an end of the grid, so that another may be better."""
        return self.best() in (min(self.rates), max(self.rates))

    def wanted(self) -> Iterator[Key]:
        """All runs that can be made now, one after the other."""
        searching = range(self.searched)
        best = self.best()
        while best is not None and self.at_edge and len(self.rates) < self.most_rates:
            at_low_end = best == min(self.rates)  # the lowest, too, where all ran away
            self.rates = sorted([*self.rates, best / STEP if at_low_end else best * STEP])
            best = self.best()
        if best is None:
            wanted = [(rate, unit) for rate in self.rates for unit in searching]
        else:
            wanted = [(best, unit) for unit in range(self.units)]
        for rate, unit in wanted:
            if (rate, unit) not in self.found:
                yield Key(self.task, self.cell.name, rate, unit)


class Plan:
    """All cells; hands out the most urgent run.

    Args:
        cells: the most telling first.
        quick: a rate and two units a cell, to see that all of it runs.
    """

    def __init__(self, cells: list[Cell], quick: bool = False):
        self.searches: dict[tuple[str, str], Search] = {}
        self.given: set[Key] = set()
        for cell in cells:
            for task in cell.tasks:
                units, searched = len(TASKS[task].units), TASKS[task].searched
                rates = cell.first_rates(task)
                if quick:
                    middle = len(rates) // 2
                    units, searched, rates = 2, 1, rates[middle : middle + 1]
                most = 1 if quick else MOST_RATES
                search = Search(cell, task, units, searched, rates, most)
                self.searches[task, cell.name] = search

    def next(self) -> Key | None:
        """A run to make now; None while nothing can be made, or nothing is left."""
        late = None
        for search in self.searches.values():
            for key in search.wanted():
                if key in self.given:
                    continue
                if key.task == WRITING and key.unit >= FEW:
                    late = late or key
                    break
                self.given.add(key)
                return key
        if late:
            self.given.add(late)
        return late

    def take(self, key: Key, run: dict) -> None:
        """Note how a run ended."""
        search = self.searches[key.task, key.cell]
        search.found[key.rate, key.unit] = run
        if key.rate not in search.rates:
            search.rates = sorted([*search.rates, key.rate])
        self.given.add(key)
