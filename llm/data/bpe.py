"""Byte-pair encoding from scratch: how a vocabulary is learned, and how a word is cut with it.

The idea (Gage 1994; Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
Units", section 3.2; on bytes: Radford et al. 2019, section 2.2): start with the 256 bytes as
tokens; find the pair of neighbours that is met most often in a large text; make it one new token;
repeat until the vocabulary is as large as wanted. Frequent words end up as one token, rare words
as a few, and nothing is ever unknown, because every text is made of bytes.

Everywhere in this project a vocabulary is a dictionary `ranks`: token (bytes) -> its number. The
number is at the same time the order in which the tokens were learned, which is all that is needed
to cut a word. `llm.data.tokenizer` hands the same dictionary to tiktoken, which is much faster.
"""

import heapq
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from random import Random

import regex  # like `re`, and it knows \p{L} (any letter of any script) and \p{N} (any digit)

from llm.utils.errors import InputError

# GPT-2's rule for the pieces within which bytes may be merged (Radford et al. 2019, section 2.2,
# and the released encoder): English endings, a run of letters, of digits, of other signs, each
# with the space before it, and white space. It keeps "dog", "dog." and "dog!" from becoming three
# unrelated tokens.
SPLIT_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

Pair = tuple[int, int]


def clean(text: str) -> str:
    """A text that has a UTF-8 form, as tiktoken does it too.

    Python allows half an emoji in a string (a lone surrogate); it becomes U+FFFD, the replacement
    character. Two halves side by side become the emoji they were meant to be.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def split_words(text: str, pattern: str = SPLIT_PATTERN) -> list[str]:
    """Cut a text into words; nothing is lost: the words joined are the text.

    >>> split_words("I'll call u at 7pm!")
    ['I', "'ll", ' call', ' u', ' at', ' 7', 'pm', '!']
    """
    return regex.findall(pattern, text)


# Training ----------------------------------------------------------------------------------------


def count_words(texts: Iterable[str], pattern: str = SPLIT_PATTERN) -> Counter[bytes]:
    """How often each word occurs. A word counts once however often it is met: this makes BPE fast.

    130 MB of English hold 30 million words, but only some 200 thousand different ones.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split_words(clean(text), pattern))
    return Counter({word.encode(): count for word, count in counts.items()})


def train_bpe(
    word_counts: dict[bytes, int], vocab_size: int, progress: bool = True
) -> dict[bytes, int]:
    """Learn a vocabulary.

    Counting all pairs anew for each of 8,000 merges would take hours. Instead a merge corrects the
    counts only where it changed something: in the words that hold the merged pair.

    Args:
        word_counts: each word and how often it occurs, from `count_words`.
        vocab_size: tokens to end with, the 256 bytes among them. Special tokens are not learned.
        progress: show a bar on stderr, where that is a terminal.

    Returns:
        ranks: token -> its number, 0 to vocab_size - 1, in the order they were learned. Ties go to
        the pair of the lowest numbers, so the same text gives the same vocabulary.

    Raises:
        InputError: fewer than 256 tokens wanted, or the text is too short to learn that many.
    """
    from tqdm import tqdm

    if vocab_size < 256:
        raise InputError(f"a vocabulary has at least the 256 bytes; {vocab_size} is too few tokens")
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokens = list(ranks)
    words = [list(word) for word in word_counts]  # bytes are numbers already: b"hi" -> [104, 105]
    counts = list(word_counts.values())

    pair_counts: Counter[Pair] = Counter()
    words_with: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += counts[index]
            words_with[pair].add(index)
    # A heap gives the most frequent pair without looking at all. Its entries are not corrected
    # when a count changes; a newer one is added, and an outdated one is thrown away when it is met.
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)

    with tqdm(
        total=vocab_size - 256,
        desc="learning merges",
        unit="",
        file=sys.stderr,
        disable=not (progress and sys.stderr.isatty()),
    ) as bar:
        while len(tokens) < vocab_size:
            if not heap:
                raise InputError(
                    f"the text is too short for {vocab_size} tokens: every word is one token "
                    f"after {len(tokens)}; give more text or ask for fewer tokens"
                )
            negative_count, pair = heapq.heappop(heap)
            if pair_counts[pair] != -negative_count or not negative_count:
                continue  # outdated
            joined = tokens[pair[0]] + tokens[pair[1]]
            # ("ab", "c") and ("a", "bc") make the same token: it is listed once.
            if joined not in ranks:
                ranks[joined] = len(tokens)
                tokens.append(joined)
                bar.update()
            changed = set()
            for index in words_with.pop(pair):
                before = words[index]
                after = merge_pair(before, pair, ranks[joined])
                for old in zip(before, before[1:]):
                    pair_counts[old] -= counts[index]
                    changed.add(old)
                for new in zip(after, after[1:]):
                    pair_counts[new] += counts[index]
                    words_with[new].add(index)
                    changed.add(new)
                words[index] = after
            del pair_counts[pair]
            for other in changed - {pair}:
                if pair_counts[other] > 0:
                    heapq.heappush(heap, (-pair_counts[other], other))
    return ranks


def merge_pair(word: list[int], pair: Pair, token: int) -> list[int]:
    """Put `token` wherever `pair` stands in `word`, from left to right.

    >>> merge_pair([1, 2, 1, 2, 3], (1, 2), 9)
    [9, 9, 3]
    """
    merged, index = [], 0
    while index < len(word):
        if tuple(word[index : index + 2]) == pair:
            merged.append(token)
            index += 2
        else:
            merged.append(word[index])
            index += 1
    return merged


# Encoding ----------------------------------------------------------------------------------------


def merge_steps(word: bytes, ranks: dict[bytes, int]) -> Iterator[list[bytes]]:
    """Cut one word, a merge at a time: yields the parts at the start and after every merge.

    Of all neighbours that make a known token, those that were learned first are joined first,
    the leftmost among equals: the order of training is played back.

    >>> ranks = {b"t": 0, b"h": 1, b"e": 2, b"th": 3, b"the": 4}
    >>> list(merge_steps(b"the", ranks))
    [[b't', b'h', b'e'], [b'th', b'e'], [b'the']]

    Raises:
        InputError: a byte of the word is not in the vocabulary.
    """
    parts = [bytes([byte]) for byte in word]
    for part in parts:
        if part not in ranks:
            raise InputError(f"the vocabulary has no token for the byte {part!r}; it is not whole")
    yield parts
    while True:
        known = [
            (ranks[left + right], index)
            for index, (left, right) in enumerate(zip(parts, parts[1:]))
            if left + right in ranks
        ]
        if not known:
            return
        _, index = min(known)
        parts = [*parts[:index], parts[index] + parts[index + 1], *parts[index + 2 :]]
        yield parts


def encode(text: str, ranks: dict[bytes, int], pattern: str = SPLIT_PATTERN) -> list[int]:
    """Text -> token ids, slowly and readably; `llm.data.tokenizer.Tokenizer` gives the same ids."""
    ids = []
    for word in split_words(clean(text), pattern):
        *_, parts = merge_steps(word.encode(), ranks)
        ids.extend(ranks[part] for part in parts)
    return ids


def encode_with_dropout(
    text: str, ranks: dict[bytes, int], dropout: float, random: Random
) -> list[int]:
    """Text -> token ids, each merge left out with a probability (BPE-dropout).

    Before every merge each pair of neighbours that could be joined is left out of the choice with
    probability `dropout`; where all are left out the word stays as it is. So a word is cut another
    way each time it is met, and a model cannot lean on one spelling of it.

    Source: Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization",
    section 3, algorithm 1.

    Args:
        dropout: 0 gives the ids of `encode`, 1 single bytes.
        random: decides which merges are left out.
    """
    ids = []
    for word in split_words(clean(text)):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            known = [
                (ranks[left + right], index)
                for index, (left, right) in enumerate(zip(parts, parts[1:]))
                if left + right in ranks and random.random() >= dropout
            ]
            if not known:
                break
            _, index = min(known)
            parts[index : index + 2] = [parts[index] + parts[index + 1]]
        ids.extend(ranks[part] for part in parts)
    return ids


def decode(ids: Iterable[int], ranks: dict[bytes, int]) -> bytes:
    """Token ids -> the bytes they stand for. Raises InputError on an id that is not a token's."""
    tokens = {rank: token for token, rank in ranks.items()}
    try:
        return b"".join(tokens[index] for index in ids)
    except KeyError as error:
        raise InputError(f"{error.args[0]} is not the id of any of {len(ranks)} tokens") from None
