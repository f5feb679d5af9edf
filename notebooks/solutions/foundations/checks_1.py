"""The checks of exercises 1. They hold the answers to many questions: try first, read later."""

from collections import Counter

import torch

from llm.data.bpe import split_words
from llm.data.tokenizer import mini_tokenizer
from llm.exercises import attempt, exercise, expect, pair, same

MESSAGE = "You have won a £500 prize! Call 09061 now to claim it."
tokenizer = mini_tokenizer()


def letters(word: str) -> list[bytes]:
    """A word as single bytes."""
    return [bytes([byte]) for byte in word.encode()]


def joined(words: str) -> list[bytes]:
    """Tokens, written with a space between them."""
    return [token.encode() for token in words.split()]


@exercise("1.1")
def check_merge(apply_merge):
    beyond = "You looked beyond the end: the last token has no neighbour."

    def merged(tokens, left, right):
        return attempt(apply_merge, tokens, (left, right), hint=beyond, of=IndexError)

    given = letters("banana")
    mistakes = {
        "Nothing was joined.": letters("banana"),
        "Only the first pair was joined: go on to the end of the word.": joined("b an a n a"),
        "The second token of the pair was joined and is still there: it is used up, so go on by "
        "two places, not by one.": joined("b an n an n a"),
        "The last token is lost: it has no neighbour, but it belongs to the word.": joined(
            "b an an"
        ),
        "What is not joined is lost: append those tokens as they are.": joined("an an"),
        "You joined the pair the other way round: it is the first token, then the second.": joined(
            "b a na na"
        ),
        "The result is one piece. Return a list of tokens.": b"banana",
    }
    expect(merged(given, b"a", b"n"), joined("b an an a"), mistakes, "banana with a and n joined")
    assert given == letters("banana"), (
        "The list that you were given has changed. Make a new one: the caller still needs the old."
    )
    mistakes = {
        "You joined from the right. Go from left to right: the first two go together.": joined(
            "a aa"
        ),
        "The middle a was used twice. What has been joined is used up.": joined("aa aa"),
        "What was joined was joined once more; a token aa is no a.": joined("aaa"),
    }
    expect(merged(letters("aaa"), b"a", b"a"), joined("aa a"), mistakes, "aaa with a and a joined")
    mistakes = {
        "You looked at the letters and not at the tokens: a b stands in the text xa b, but the "
        "first token is xa.": joined("x ab"),
        "A token xa was taken for an a: compare whole tokens.": joined("xab"),
    }
    expect(merged(joined("xa b"), b"a", b"b"), joined("xa b"), mistakes, "xa b with a and b joined")
    expect(merged([], b"a", b"b"), [], what="a word without any token")
    return "Repeat it 7,935 times, each time with the best pair, and you have mini's vocabulary."


def _counted(words: dict, neighbours, times=lambda n: n) -> Counter:
    """What a count in another way gives: the mistakes of 1.2."""
    pairs = Counter()
    for tokens, number in words.items():
        for found in neighbours(tokens):
            pairs[found] += times(number)
    return pairs


@exercise("1.2")
def check_pairs(count_pairs):
    words = {tuple(letters(w)): n for w, n in {"no": 4, "now": 2, "mama": 3, "I": 7}.items()}
    found = attempt(
        *(count_pairs, dict(words)), hint="Is there a pair in a word of one letter?", of=IndexError
    )
    wanted = _counted(words, lambda word: zip(word, word[1:]))
    run = [token for word in words for token in word]
    last = {}
    for word, times in words.items():
        last |= dict.fromkeys(zip(word, word[1:]), times)
    mistakes = {
        "How often a word occurs has to count: each of its pairs is there as often.": _counted(
            words, lambda word: zip(word, word[1:]), lambda n: 1
        ),
        "mama holds the pair m a twice, so it counts twice, each time the word occurs.": _counted(
            words, lambda word: set(zip(word, word[1:]))
        ),
        "The order matters: m a and a m are different pairs.": _counted(
            words, lambda word: [tuple(sorted(p)) for p in zip(word, word[1:])]
        ),
        "You counted single tokens. Count neighbours, two by two.": _counted(words, iter),
        "The last pair of each word is missing.": _counted(
            words, lambda word: list(zip(word, word[1:]))[:-1]
        ),
        "A pair that was met before is overwritten: add to what is there, with +=.": last,
        "Pairs end with the word: the end of one and the start of the next are no "
        "neighbours.": Counter(zip(run, run[1:])),
        "The keys should be pairs, (left, right), not the joined token.": _counted(
            words, lambda word: [left + right for left, right in zip(word, word[1:])]
        ),
        "Return the count of every pair, not the best pair alone.": (b"n", b"o"),
    }
    expect(found, wanted, mistakes, "the count of the pairs")
    return "The most frequent pair becomes the next token; the cell below learns twenty that way."


@exercise("1.3")
def check_cut(cut_word):
    alphabet = [bytes([byte]) for byte in b"abcdefghijklmnopqrstuvwxyz"]
    tokens = [*alphabet, b"in", b"ng", b"si", b"ing", b"sin", b"nn"]
    toy = {token: number for number, token in enumerate(tokens)}

    def cut(word, ranks=toy):
        hint = "A pair of neighbours that is no token cannot be looked up: ask `in ranks` first."
        return attempt(cut_word, word, ranks, hint=hint, of=KeyError)

    mistakes = {
        "Nothing was joined.": joined("i n n"),
        "You joined the token with the highest number first. The lowest wins.": joined("i nn"),
        "Return the tokens, not their numbers.": [toy[b"in"], toy[b"n"]],
        "Now it is one piece, which the vocabulary does not have. Join only what makes a token of "
        "it.": joined("inn"),
    }
    expect(cut(b"inn"), joined("in n"), mistakes, "inn, cut")
    mistakes = {
        "One merge and no more. Go on as long as two neighbours make a token.": joined("s in g"),
        "You went from the left, to the next token or to the longest. The order of learning "
        "decides: `in` first, and then no `sin` is possible before `ing`.": joined("sin g"),
    }
    expect(cut(b"sing"), joined("s ing"), mistakes, "sing, cut")
    mistakes = {"Among equals, the leftmost is joined first.": joined("n nn")}
    expect(cut(b"nnn"), joined("nn n"), mistakes, "nnn, cut")
    expect(cut(b"a"), [b"a"], what="a word of one letter, cut")
    words = split_words(MESSAGE)
    found = [cut(word.encode(), tokenizer.ranks) for word in words]
    for word, pieces in zip(words, found):
        wanted = [tokenizer.decode_bytes([number]) for number in tokenizer.encode(word)]
        expect(pieces, wanted, what=f"{word!r} with mini's vocabulary")
    return (
        f"Word by word, yours cuts our message into {sum(map(len, found))} tokens, as tiktoken "
        "does. "
        "No text is unknown to it, since every byte is a token."
    )


@exercise("1.4")
def check_batch(make_batch):
    rows = [[5, 0, 7], [4], [9, 8, 9, 2, 0], [0, 6]]
    given = [list(row) for row in rows]
    found = attempt(
        *(make_batch, given, 0),
        hint="The rows are still of different length when they become a tensor.",
    )
    ids, lengths = pair(found, "ids", "lengths")
    assert given == rows, (
        "The lists that you were given have changed. `row + [...]` makes a new list, `row += "
        "[...]` "
        "and `row.append` do not."
    )

    def filled(width, left=False):
        parts = [(row[:width], [0] * (width - len(row))) for row in rows]
        return torch.tensor([gap + row if left else row + gap for row, gap in parts])

    wide = ids.shape[-1]
    assert ids.ndim == 2 and (wide <= 5 or not same(ids, filled(wide))), (
        f"Your rows are {wide} wide and the longest message has 5 tokens: no more than that, the "
        "rest "
        "would be computed for nothing."
    )
    mistakes = {
        "The filler comes first. It belongs behind the tokens.": filled(5, left=True),
        "You cut all messages to the shortest. Fill up to the longest.": filled(1),
        "The last column is missing: the longest message has lost a token.": filled(4),
        "You turned the rectangle: one row a message.": filled(5).T,
    }
    expect(ids, filled(5), mistakes, "ids")
    assert not ids.is_floating_point(), "Token numbers are whole: ids should hold integers."
    mistakes = {
        "All lengths are that of the longest. Take the number of real tokens of each message.": (
            torch.tensor([5, 5, 5, 5])
        ),
        "You counted the tokens that are not 0. But 0 is also the number of a real token here: "
        "take "
        "the length of the list.": torch.tensor([2, 1, 4, 1]),
        "You returned the place of the last token, which is one less than the "
        "length.": torch.tensor([2, 0, 4, 1]),
        "You returned how much is filled up, not how much is real.": torch.tensor([2, 4, 0, 3]),
    }
    expect(lengths, torch.tensor([3, 1, 5, 2]), mistakes, "lengths")
    other, _ = pair(attempt(make_batch, [[1, 2], [3]], 9), "ids", "lengths")
    expect(other, torch.tensor([[1, 2], [3, 9]]), what="ids with filler 9")
    return "A model can read four messages in one go now; 1.6 decides which ones it may learn from."
