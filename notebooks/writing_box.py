"""A text box for a beginning, which the base and each voice continue under it.

`written_page` makes the texts as HTML and needs no browser; `writing_box` puts them under a text
box, in a notebook.
"""

import html
from collections.abc import Iterator

from text_box import CELL, WRAP, text_box

from llm.inference.adapters import Adapters
from llm.inference.voices import Continuation, continuations

BEGINNING = "Congratulations"
TOKENS = 40  # written at most
TEMPERATURE = 0.7

# Okabe and Ito 2008; laid over the notebook's own colours, be they light or dark.
NEW = "0, 158, 115"
TOLD = (
    "green: written, token by token. The seed is fixed: the same beginning is continued in "
    "the same way every time."
)
ENDS, GOES_ON = "(ends here)", "…"


def written(adapters: Adapters, beginning: str, seed: int = 0) -> Iterator[dict[str, Continuation]]:
    """What the base and every voice make of a beginning, a token longer each time.

    A space at the end is left out: it belongs to the token to come.
    """
    voices = [name for name in adapters if adapters[name].record.writes]
    texts = continuations(
        adapters, beginning.rstrip(), [None, *voices], TOKENS, temperature=TEMPERATURE, seed=seed
    )
    for found in texts:
        yield {name or "base": continuation for name, continuation in found.items()}


def written_page(beginning: str, texts: dict[str, Continuation]) -> str:
    """The beginning, and in colour how each goes on, as HTML.

    Whatever stands in them is shown as text: no tag in it becomes one.
    """
    rows = "".join(
        f'<tr style="background:none"><td style="{CELL}; white-space:nowrap">'
        f'<b>{html.escape(name)}</b></td><td style="{CELL}; {WRAP}; min-width:16em">'
        f"{html.escape(beginning.rstrip())}"
        f'<span style="background:rgba({NEW}, 0.3); unicode-bidi:isolate">'
        f'{html.escape(one.text)}</span> <span style="opacity:0.6">{ending(one)}</span></td></tr>'
        for name, one in texts.items()
    )
    return (
        f'<div style="font-size:15px; line-height:1.7; max-width:64em"><table>{rows}</table>'
        f'<div style="font-size:13px; opacity:0.75">{TOLD}</div></div>'
    )


def ending(one: Continuation) -> str:
    """What stands after a text: whether its voice has ended it, or was stopped."""
    return ENDS if one.ended else GOES_ON


def writing_box(
    adapters: Adapters, beginning: str = "", seed: int = 0, hint: str = "type a beginning"
):
    """A text box, and under it how the base and every voice of `adapters` go on.

    Returns:
        what `text_box.text_box` returns.
    """

    def pages(typed: str) -> Iterator[str]:
        return (written_page(typed, texts) for texts in written(adapters, typed, seed))

    first = list(pages(beginning))[-1] if beginning.strip() else ""
    return text_box(beginning, hint, pages, first)
