"""Messages made harder to recognise: signs masked, and words spelled so that only people read them.

Each function takes a text and gives another one. Two ask what a model lives on, by taking it away.
Three are what senders of spam do ("v1agra"): they change words of letters alone and leave numbers,
short codes and links as they are, since these have to work. Whether a filter can be got round in
this way was asked early (Lowd and Meek 2005, "Good word attacks on statistical spam filters").
"""

import re

from llm.data.signs import LINK

LEET = str.maketrans("aeiosAEIOS", "4310543105")
# Cyrillic letters that most typefaces draw like Latin ones, so that a reader sees no difference.
LOOK_ALIKES = str.maketrans("aceopxyiABCEHIKMOPTX", "асеорхуіАВСЕНІКМОРТХ")
# Words of four letters or more: what is shorter is seldom worth disguising.
_WORD = re.compile(r"(?<![\w@.])[A-Za-z]{4,}(?![\w@]|\.\w)")


def signs_masked(text: str) -> str:
    """0 for every digit, and one word for every link: that they are there can still be read.

    >>> signs_masked("Call 0800 123 or see www.win.example/now")
    'Call 0000 000 or see link'
    """
    return re.sub(r"\d", "0", LINK.sub("link", text))


def signs_left_out(text: str) -> str:
    """No link and no digit: not even that there was one can be read.

    >>> signs_left_out("Call 0800 123 or see www.win.example/now today")
    'Call or see today'
    """
    return " ".join(re.sub(r"\d", "", LINK.sub("", text)).split())


def digits_for_letters(text: str) -> str:
    """4, 3, 1, 0 and 5 for a, e, i, o and s.

    >>> digits_for_letters("free Viagra, see www.pills.example")
    'fr33 V14gr4, see www.pills.example'
    """
    return _respelled(text, lambda word: word.translate(LEET))


def spaced_letters(text: str) -> str:
    """A space after each letter of a word.

    >>> spaced_letters("Free tones, txt TONE to 80086")
    'F r e e t o n e s, txt T O N E to 80086'
    """
    return _respelled(text, " ".join)


def look_alike_letters(text: str) -> str:
    """Cyrillic letters in place of the Latin ones that look the same."""
    return _respelled(text, lambda word: word.translate(LOOK_ALIKES))


def _respelled(text: str, respell) -> str:
    """With every word of letters alone respelled, outside of links."""
    pieces, end = [], 0
    for link in LINK.finditer(text):
        pieces += [_WORD.sub(lambda found: respell(found.group()), text[end : link.start()])]
        pieces += [link.group()]
        end = link.end()
    return "".join([*pieces, _WORD.sub(lambda found: respell(found.group()), text[end:])])


MASKS = {"0 for each digit, one word for links": signs_masked, "both left out": signs_left_out}
ATTACKS = {
    "d1g1ts for letters": digits_for_letters,
    "s p a c e d letters": spaced_letters,
    "look-alike letters": look_alike_letters,
}
