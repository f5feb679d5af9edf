"""What a voice remembers: how often it repeats so many tokens in a row of what it was trained on.

A row of ten tokens is rarely written twice by chance, so a repeated one was learned by heart
(Carlini et al. 2023, "Quantifying Memorization Across Neural Language Models", section 3, ask the
same of longer rows). Chance is measured, not assumed: the same count against messages that were
never trained on is the control.
"""

import re
from collections.abc import Iterable, Sequence


def rows_of(ids: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """All runs of `length` tokens that stand side by side in a document; none in a shorter one."""
    return [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]


def repeated(
    written: Iterable[Sequence[int]], known: Iterable[Sequence[int]], length: int = 10
) -> dict:
    """How much of what was written stands in known documents, `length` tokens in a row.

    Args:
        written: token ids of each generated document, without the end-of-text token.
        known: of the documents to look for, those trained on or unseen ones for control.

    Returns:
        `documents` written, `documents_repeating` at least one row, their `share`; `rows` in all,
        `rows_repeated`, `row_share` (the shares are 0 where there is nothing to count), `tokens`.
    """
    seen = {row for ids in known for row in rows_of(ids, length)}
    documents = repeating = rows = hits = 0
    for ids in written:
        found = [row in seen for row in rows_of(ids, length)]
        documents, repeating = documents + 1, repeating + any(found)
        rows, hits = rows + len(found), hits + sum(found)
    return {
        "tokens": length,
        "documents": documents,
        "documents_repeating": repeating,
        "share": repeating / documents if documents else 0.0,
        "rows": rows,
        "rows_repeated": hits,
        "row_share": hits / rows if rows else 0.0,
    }


def numbers_in(text: str, digits: int = 6) -> set[str]:
    """Numbers of at least so many digits, as telephone numbers are, however they are spaced.

    >>> sorted(numbers_in("call 0800 123-456 or 07700900123, 5 pm"))
    ['07700900123', '0800123456']
    """
    found = re.findall(rf"\d(?:[ .()-]?\d){{{digits - 1},}}", text)
    return {re.sub(r"\D", "", number) for number in found}
