"""What a message gives its reader to act on: a telephone number, a short code, a link, or nothing.

Whoever sends spam wants an answer, and in the years of the collection that was a call or a text
message that cost money. So these are its plainest signs, and where they are absent a model has seen
few examples.
"""

import re

ENDINGS = "biz|com|co|edu|eu|example|gov|info|mobi|net|org|ru|tk|tv|uk|us"
# A link, with or without the protocol. An e-mail address counts: it is a place to go to as well.
LINK = re.compile(
    rf"\bhttps?://\S+|\bwww\.\S+|\b[\w-]+(?:\.[\w-]+)*\.(?:{ENDINGS})\b(?:/\S*)?", re.I
)
# Seven digits or more with single spaces or hyphens between them, and no sum of money.
TELEPHONE = re.compile(r"(?<![\d£$€.,])\+?\d(?:[ -]?\d){6,}(?!\d)")
# "text WIN to 80086": four to six digits that are no price and no part of a longer number.
SHORT_CODE = re.compile(r"(?<![\d£$€.,:])\d{4,6}(?![.,:]?\d|p\b)")

WAYS = ("telephone number", "short code", "link", "other digits", "no digit")


def way_to_answer(text: str) -> str:
    """The first of `WAYS` that a message offers.

    >>> way_to_answer("Call 0800 123 4567 now"), way_to_answer("see you at 8")
    ('telephone number', 'other digits')
    """
    for way, pattern in zip(WAYS, (TELEPHONE, SHORT_CODE, LINK, re.compile(r"\d"))):
        if pattern.search(text):
            return way
    return WAYS[-1]
