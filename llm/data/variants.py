"""Which messages are variants of each other: one campaign, some of its words changed.

Removing copies (`llm.data.messages.normalised`) catches a campaign that changes its telephone
number or its prize. Others change words, and their variants would stand in training and in test.
Two texts are variants if they share most of their pieces of five letters (Jaccard similarity:
pieces in common / pieces in either), and so are the variants of a variant: a group is whatever is
linked.

Ten million pairs need not be looked at to find every pair (Chaudhuri, Ganti and Kaushik 2006, "A
Primitive Operator for Similarity Joins in Data Cleaning"; Bayardo, Ma and Srikant 2007, "Scaling
Up All Pairs Similarity Search"). If 50 pieces are to have 45 partners among the other's, two texts
share one of any 6; so only the few *rarest* pieces of each text go into an index, and who meets
nobody there has no variant. The result is exact, as the tests check against all pairs.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction

PIECE = 5  # letters


def pieces(text: str) -> set[str]:
    """All runs of five letters; of a shorter text, the text itself.

    >>> sorted(pieces("win0call"))
    ['0call', 'in0ca', 'n0cal', 'win0c']
    """
    return {text[i : i + PIECE] for i in range(max(1, len(text) - PIECE + 1))}


def variant_groups(texts: Sequence[str], similarity: float = 0.8) -> list[int]:
    """The group of each text: equal numbers for variants, and for variants of variants.

    Args:
        texts: in normal form already (`llm.data.messages.normalised`); this function compares
            letter by letter.
        similarity: share of the pieces in either of two texts that both have (Jaccard), at the
            least, above 0 and at most 1. Taken as the decimal number that it is written as.

    Returns:
        A number for each text, from 0, in the order in which the groups first appear.

    Raises:
        ValueError: a similarity outside (0, 1].
    """
    share = Fraction(str(similarity))  # 4/5: a float would decide ties by its rounding
    if not 0 < share <= 1:
        raise ValueError(f"similarity must be above 0 and at most 1, not {similarity}")
    p, q = share.numerator, share.denominator

    sizes, frequency = [], Counter()
    for text in texts:
        found = pieces(text)
        sizes.append(len(found))
        frequency.update(found)

    repeated = {piece for piece, count in frequency.items() if count > 1}

    above = list(range(len(texts)))  # union-find: follow it to the top for the head of a group

    def head(place: int) -> int:
        while above[place] != place:
            above[place] = above[above[place]]
            place = above[place]
        return place

    # piece -> head of a group when it was entered -> its texts with that piece. By group, because
    # a text that has joined a large group is done with all of it.
    index: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    first: dict[str, int] = {}
    for place in sorted(range(len(texts)), key=sizes.__getitem__):
        text, size = texts[place], sizes[place]
        if first.setdefault(text, place) != place:  # equal texts are variants; one is enough
            above[place] = head(first[text])
            continue
        # A variant shares at least size * share of the pieces, so it holds one of the `probes`
        # rarest. Those that came before are no larger: were this text one of them, a later one
        # would share size * 2 share / (1 + share), so that fewer are entered than looked up.
        probes = size - _divide_up(p * size, q) + 1
        entries = size - _divide_up(2 * p * size, p + q) + 1
        found = pieces(text)
        shared = found & repeated
        alone = size - len(shared)  # the rarest of all, and nobody else has them
        if alone >= probes:
            continue
        rare = sorted(sorted(shared), key=frequency.get)  # one order for all texts
        tried = set()
        for piece in rare[: probes - alone]:
            for group, members in index[piece].items() if piece in index else ():
                for other in members:
                    if head(group) == head(place):
                        break
                    if other in tried or q * sizes[other] < p * size:  # too small to be a variant
                        continue
                    tried.add(other)
                    common = len(found & pieces(texts[other]))
                    if q * common >= p * (size + sizes[other] - common):
                        above[head(place)] = head(other)
        for piece in rare[: max(0, entries - alone)]:
            index[piece][head(place)].append(place)

    numbers: dict[int, int] = {}
    return [numbers.setdefault(head(place), len(numbers)) for place in range(len(texts))]


def _divide_up(a: int, b: int) -> int:
    """The quotient a / b, rounded up."""
    return -(-a // b)
