"""One progress bar for all long work: on stderr, where that is a terminal.

A notebook has no terminal; it puts a bar of its own in `cell_bar` (`notebooks/progress.py`).
"""

from collections.abc import Iterable

cell_bar: type | None = None  # takes what tqdm takes


def progress(items: Iterable | None = None, quiet: bool = False, **settings):
    """A tqdm bar that is gone when it is closed.

    Args:
        items: to go through; None: `update` is called, and `settings` has `total`.
        quiet: show nothing.
        settings: what tqdm takes: `total`, `initial`, `unit`, `desc`.
    """
    from tqdm import tqdm

    disable = True if quiet else None if cell_bar is None else False  # None: unless a terminal
    return (cell_bar or tqdm)(items, leave=False, disable=disable, **settings)
