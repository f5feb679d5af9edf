"""A progress bar under a notebook's cell. Import it, and training that is not quiet shows it, too.

    for rank in progress((1, 8, 64)):
        train(model, task, settings, quiet=False)

Bars inside one another are lines of one output, which is empty when the work is done: what is
committed has no bar in it.
"""

import html
import io

from IPython import get_ipython
from IPython.display import display
from tqdm import tqdm

from llm.utils import progress as bars
from llm.utils.progress import progress

__all__ = ["progress"]


class CellBar(tqdm):
    """tqdm that draws into the output of the cell that runs."""

    def __init__(self, *items, disable=False, **settings):
        if not disable:
            _output.open(self)
        settings = {"mininterval": 0.3, "ncols": 60, **settings}
        super().__init__(*items, disable=disable, file=io.StringIO(), **settings)

    def display(self, msg=None, pos=None):
        """Draw it as it stands; tqdm calls this whenever it is time."""
        _output.draw()

    def close(self):
        """Take it away."""
        super().close()
        _output.close(self)


class CellOutput:
    """The bars that are open in a cell, and the one output that shows them."""

    def __init__(self):
        self.cell, self.handle, self.bars = None, None, []

    def open(self, bar: CellBar) -> None:
        """Add a bar, below those that are there."""
        cell = get_ipython().execution_count if get_ipython() else None
        if self.handle is None or cell != self.cell:
            self.cell, self.handle, self.bars = cell, None, []
        self.bars.append(bar)

    def close(self, bar: CellBar) -> None:
        """Take a bar away."""
        if bar in self.bars:
            self.bars.remove(bar)
            self.draw()

    def draw(self) -> None:
        """Show the bars as they are now."""
        page = "".join(f"<pre>{html.escape(str(bar))}</pre>" for bar in self.bars)
        shown = {"text/html": page, "text/plain": ""}
        if self.handle is None:
            self.handle = display(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)


_output = CellOutput()
bars.cell_bar = CellBar
