"""A text box to type messages into: every adapter's answer, and the words that moved it.

`page` makes the answer as HTML and needs no browser; `demonstration` puts it under a text box, in
a notebook.
"""

import html

from text_box import CELL, WRAP, text_box

from llm.inference.adapters import Adapters
from llm.inference.draft import Draft
from llm.inference.explain import Explanation, Part, explain, explanations

# Okabe and Ito 2008: two colours that colour-blind readers tell apart. Beside the colour, words
# that speak for the label have a line below, and words against it one above. All colours are laid
# over the notebook's own, be they light or dark.
FOR, AGAINST = "213, 94, 0", "0, 114, 178"

# Spam to the shipped adapter, and ham without the telephone number.
OPENING = "WINNER!! You have won a free phone, can you call us on 09061701461 before tomorrow"


def page(answers: dict[str, Explanation]) -> str:
    """The answers as HTML: a bar for each adapter's probability, and the words in colour.

    Whatever stands in the message is shown as text: no tag in it becomes one.
    """
    rows = "".join(
        f'<tr style="background:none"><td style="{CELL}"><b>{html.escape(name)}</b></td>'
        f'<td style="{CELL}">{_bar(answer)}</td>'
        f'<td style="{CELL}; {WRAP}; min-width:16em">{_words(answer)}</td></tr>'
        for name, answer in answers.items()
    )
    key = (
        f'<span style="background:rgba({FOR}, 0.45); border-bottom:2px solid rgb({FOR})">word'
        f'</span> speaks for it, <span style="background:rgba({AGAINST}, 0.45); '
        f'border-top:2px solid rgb({AGAINST})">word</span> speaks against it; '
        "the stronger the colour, the more the answer changes without the word. Words with one "
        "colour and a thin frame were left out together."
    )
    return (
        f'<div style="font-size:15px; line-height:1.7; max-width:64em"><table>{rows}</table>'
        f'<div style="font-size:13px; opacity:0.75">{key}{_how_much(answers)}</div></div>'
    )


def demonstration(adapters: Adapters, message: str = "", hint: str = "type a message"):
    """A text box with the answers under it: first how likely, then the words that moved them.

    Returns:
        what `text_box.text_box` returns.
    """
    draft = Draft(adapters)
    return text_box(
        message,
        hint,
        lambda typed: map(page, explanations(adapters, typed, draft)),
        first=page(explain(adapters, message)) if message.strip() else "",
    )


def _bar(answer: Explanation) -> str:
    percent = 100 * answer.probability
    return (
        '<div style="width:10em; background:rgba(128, 128, 128, 0.3); border-radius:3px">'
        f'<div style="width:{percent:.1f}%; background:rgb({FOR}); height:0.9em; '
        f'border-radius:3px"></div></div>{html.escape(answer.label)} {percent:.1f} %'
    )


def strengths(parts: list[Part]) -> list[float]:
    """How strongly each part is coloured, from 0 to 1."""
    effects = [abs(part.effect or 0.0) for part in parts]
    scale = max([*effects, 1.0])  # nats; a message whose words do next to nothing stays pale
    return [effect / scale for effect in effects]


def _words(answer: Explanation) -> str:
    parts = [_part(*both) for both in zip(answer.parts, strengths(answer.parts))]
    if answer.unread:
        parts.append(f'<span style="opacity:0.45">{html.escape(answer.unread)}</span>')
    return " ".join(parts)


def _part(part: Part, strength: float) -> str:
    colour, side = (FOR, "bottom") if (part.effect or 0.0) > 0 else (AGAINST, "top")
    line = f"border-{side}:2px solid rgb({colour}); " if strength > 0.2 else ""
    if len(part.text.split()) > 1 and part.effect is not None:
        line += "outline:1px solid rgba(128, 128, 128, 0.4); "
    told = "not known yet" if part.effect is None else f"{part.effect:+.2f}"
    return (
        f'<span title="{told}" style="background:rgba({colour}, {0.55 * strength:.2f}); '
        f'{line}padding:0 2px; unicode-bidi:isolate">{html.escape(part.text)}</span>'
    )


def _how_much(answers: dict[str, Explanation]) -> str:
    """Says so where the model has not read everything."""
    unread = max((answer.unread for answer in answers.values()), key=len, default="")
    if not unread:
        return ""
    return (
        f" <b>The model has not read the last {len(unread.split()):,} words</b> (pale): the message"
        " is longer than its context."
    )
