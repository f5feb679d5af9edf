"""A text box whose answer follows when the typing pauses, for a notebook's last line."""

import asyncio
from collections.abc import Callable, Iterator

PAUSE = 0.12  # seconds without a key, after which what was typed is answered
PASTED = 20  # characters at once: nobody is typing, so there is no pause to wait for
BREATH = 0.01  # seconds between two drawings, in which a key is heard

WRAP = "overflow-wrap:anywhere; white-space:normal"  # a word of 500 letters, too
CELL = "padding:6px 14px 6px 0; vertical-align:top; text-align:left; background:none"


def text_box(typed: str, hint: str, answers: Callable[[str], Iterator[str]], first: str):
    """A box to type into, with the answer under it.

    The answer is drawn again and again, as it gets finer or longer. A key that comes meanwhile ends
    that, so that none has to wait for another. An empty box is not answered.

    Args:
        typed: what stands in the box.
        hint: shown while the box is empty.
        answers: from what was typed, which is not blank, to HTML that gets better and better.
        first: the answer to `typed`, as HTML.

    Returns:
        an ipywidgets box: its first child is the text box, its second the answer.
    """
    import ipywidgets

    layout = ipywidgets.Layout(width="46em", max_width="100%")
    box = ipywidgets.Textarea(typed, placeholder=hint, rows=3, layout=layout)
    shown = ipywidgets.HTML(first if typed.strip() else "")
    latest: list[asyncio.Task] = []

    async def answer(message: str, pause: float) -> None:
        await asyncio.sleep(pause)
        for html in answers(message):
            shown.value = html
            await asyncio.sleep(BREATH)

    def draw(change) -> None:
        while latest:
            latest.pop().cancel()
        if not change["new"].strip():  # nothing to answer
            shown.value = ""
            return
        pasted = abs(len(change["new"]) - len(change["old"])) > PASTED
        started = answer(change["new"], 0 if pasted else PAUSE)
        latest.append(asyncio.get_running_loop().create_task(started))

    box.observe(draw, names="value")
    return ipywidgets.VBox([box, shown])
