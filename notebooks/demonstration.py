"""A text box to type messages into: every adapter's answer, and the words that moved it.

`page` makes the answer as HTML and needs no browser; `demonstration` puts it under a text box, in
a notebook.
"""

import html

from llm.inference.adapters import Adapters
from llm.inference.explain import Explanation, Word, explain

# Okabe and Ito 2008: two colours that colour-blind readers tell apart. Beside the colour, words
# that speak for the label are underlined, and words against it are struck from above.
FOR, AGAINST = "213, 94, 0", "0, 114, 178"
CELL = 'style="padding:6px 14px 6px 0; vertical-align:top; text-align:left"'


def page(answers: dict[str, Explanation]) -> str:
    """The answers as HTML: a bar for each adapter's probability, and the words in colour.

    Whatever stands in the message is shown as text: no tag in it becomes one.
    """
    rows = "".join(
        f"<tr><td {CELL}><b>{html.escape(name)}</b></td>"
        f"<td {CELL}>{_bar(answer)}</td><td {CELL}>{_words(answer.words)}</td></tr>"
        for name, answer in answers.items()
    )
    key = (
        f'<span style="background:rgba({FOR}, 0.45); border-bottom:2px solid rgb({FOR})">word'
        f'</span> speaks for it, <span style="background:rgba({AGAINST}, 0.45); '
        f'border-top:2px solid rgb({AGAINST})">word</span> speaks against it; '
        "the stronger the colour, the more the answer changes without the word"
    )
    return (
        f'<div style="font-size:15px; line-height:1.7"><table>{rows}</table>'
        f'<div style="font-size:13px; color:#555">{key}</div></div>'
    )


def demonstration(adapters: Adapters, message: str = "", hint: str = "type a message"):
    """A text box with the answers under it, drawn anew at each key. For a notebook's last line.

    Returns:
        an ipywidgets box: its first child is the text box, its second the answers.
    """
    import ipywidgets

    box = ipywidgets.Textarea(
        message, placeholder=hint, rows=3, layout=ipywidgets.Layout(width="46em")
    )
    answers = ipywidgets.HTML(page(explain(adapters, message)))

    def draw(change) -> None:
        answers.value = page(explain(adapters, change["new"]))

    box.observe(draw, names="value")
    return ipywidgets.VBox([box, answers])


def _bar(answer: Explanation) -> str:
    percent = 100 * answer.probability
    return (
        f'<div style="width:14em; background:#e3e3e3; border-radius:3px">'
        f'<div style="width:{percent:.1f}%; background:rgb({FOR}); height:0.9em; '
        f'border-radius:3px"></div></div>{html.escape(answer.label)} {percent:.1f} %'
    )


def _words(words: list[Word]) -> str:
    strongest = max((abs(word.effect) for word in words), default=0.0)
    scale = max(strongest, 1.0)  # nats; a message whose words do next to nothing stays pale
    return " ".join(_word(word, abs(word.effect) / scale) for word in words)


def _word(word: Word, strength: float) -> str:
    """`strength` from 0 to 1."""
    colour, side = (FOR, "bottom") if word.effect > 0 else (AGAINST, "top")
    line = f"border-{side}:2px solid rgb({colour}); " if strength > 0.2 else ""
    return (
        f'<span title="{word.effect:+.2f}" '
        f'style="background:rgba({colour}, {0.55 * strength:.2f}); '
        f'{line}padding:0 2px; unicode-bidi:isolate">{html.escape(word.text)}</span>'
    )
