"""Chapter 1. Tokenizing: how a text message becomes a row of numbers

A model computes with numbers, so a message has to become some. One number a word? Then a word that
was not met before, a name or "goooood", has none. One number a byte? Nothing is ever unknown, but
a short message is a hundred steps long. Byte-pair encoding (BPE) lies between: it starts with bytes
and joins, again and again, the two neighbours that were met together most often in a large text.

You will see a vocabulary being learned from the training messages, words of a real message being
joined merge by merge, and how many tokens a message takes in bytes and in the vocabulary of `mini`.

Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units",
section 3.2; on bytes: Radford et al. 2019, section 2.2.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
from gpt2_plots import tokenizing_figure
from lesson import lesson, listing, save, say, section, show, try_next

from llm.data.bpe import count_words, encode, merge_steps, split_words, train_bpe
from llm.data.messages import load_messages
from llm.data.splits import split
from llm.data.tokenizer import END_OF_TEXT, gpt2_tokenizer, mini_tokenizer


def options(parser):
    parser.add_argument("--message", help="cut this message in place of a training message")
    parser.add_argument("--gpt2", metavar="FOLDER", help="with GPT-2's vocab.json and merges.txt")


def teach(options):
    train = [message.text for message in split(load_messages(), options.seed).train]
    tokenizer = mini_tokenizer()
    message = options.message or next(text for text in train if "WINNER" in text)
    words(message)
    learned = learning(train)
    cut = merging(message, tokenizer)
    vocabularies = {"bytes": bytes_of, "learned here, 1,024": lambda text: encode(text, learned)}
    vocabularies["mini, 8,192"] = tokenizer.encode
    if options.gpt2:
        vocabularies["gpt2, 50,257"] = gpt2_tokenizer(options.gpt2).encode
    counts = lengths(train, vocabularies)
    special(tokenizer)
    save(tokenizing_figure(cut, counts), options.out, "ch01_tokenizing.png")
    try_next(
        '--message "goooood morning": rare spellings fall apart into pieces, and nothing is lost.',
        "in learning, ask train_bpe for 4,096 tokens: messages get shorter still, but the last "
        "merges were met a handful of times in these messages, and help with few others.",
        "--gpt2 FOLDER with GPT-2's vocab.json and merges.txt: six times as many tokens make "
        "messages only 15 % shorter.",
    )


def words(message):
    section("Words")
    say(
        "Merges never cross a word's edge. GPT-2's rule cuts a message into runs of letters, of "
        "digits and of other signs, each with the space before it. A message, and its words:"
    )
    listing(message, "", "|".join(split_words(message)))


def learning(train):
    section("Learning a vocabulary")
    say(
        "The 256 bytes are the first tokens. Then the most frequent pair of neighbours becomes a "
        "token, 768 times, on the training messages:"
    )
    ranks = train_bpe(count_words(train), 1024, progress=False)
    tokens = [token.decode(errors="replace") for token in ranks]
    show(
        ["merges", "new tokens"],
        [
            (f"{first - 255} to {first - 246}", " ".join(map(repr, tokens[first : first + 10])))
            for first in (256, 266, 276, 1014)
        ],
    )
    say("Frequent endings and short words come first, then longer and rarer ones.")
    return ranks


def merging(message, tokenizer):
    section("Joining words, merge by merge")
    say(
        "To cut a word, the order of learning is played back: of all neighbours that make a token "
        "of `mini`, those learned first are joined first."
    )
    longest = sorted(set(split_words(message)), key=lambda word: (-len(word), word))
    cut = {word: list(merge_steps(word.encode(), tokenizer.ranks)) for word in longest[:3]}
    for word, steps in cut.items():
        listing(
            f"{word!r}: {len(steps[0])} bytes, {len(steps[-1])} tokens",
            *("  " + "·".join(part.decode(errors="replace") for part in parts) for parts in steps),
        )
    ids = tokenizer.encode(message)
    assert ids == encode(message, tokenizer.ranks)  # tiktoken and our own code agree
    say(f"The whole message, {len(message.encode())} bytes, is {len(ids)} tokens:")
    tokens = [tokenizer.token(index) for index in ids[:12]]
    widths = [max(len(str(index)), len(token)) for index, token in zip(ids, tokens)]
    listing(
        " ".join(str(index).rjust(width) for index, width in zip(ids, widths)) + " ...",
        " ".join(token.rjust(width) for token, width in zip(tokens, widths)) + " ...",
    )
    return cut


def bytes_of(text):
    return list(text.encode())


def lengths(train, vocabularies):
    section("Tokens in a message")
    counts, rows = {}, []
    for name, cut in vocabularies.items():
        counts[name] = sorted(len(cut(text)) for text in train)
        total, n = sum(counts[name]), len(train)
        characters = sum(map(len, train)) / total
        rows.append((name, total, round(total / n, 1), counts[name][n // 2], counts[name][-1]))
        rows[-1] += (round(characters, 2),)
    show(["vocabulary", "tokens", "mean", "median", "longest", "characters a token"], rows)
    say(
        "Fewer tokens mean less to compute and more text within the model's 512 positions. The "
        "price is the embedding table: a row of numbers for every token, which mini spends about "
        "a fifth of its parameters on."
    )
    return counts


def special(tokenizer):
    section("A special token cannot be written")
    ids = tokenizer.encode(END_OF_TEXT)
    say(
        f"{END_OF_TEXT} stands between documents and has a number of its own, {tokenizer.eot_id}. "
        f"Somebody who writes it into a message gets ordinary tokens, {ids}, so no message can "
        "forge the end of a text."
    )
    assert tokenizer.eot_id not in ids


if __name__ == "__main__":
    lesson(teach, __doc__, options)
