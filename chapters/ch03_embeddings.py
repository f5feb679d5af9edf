"""Chapter 3. Embeddings: what a token is, plus where it stands

A token's number says nothing: 4,711 is not nearer to 4,712 than to 17. So each token gets a row of
a table, 256 numbers in `mini`, and these rows are learned like every other weight. Tokens that are
used alike end up with rows that point the same way. A second table has a row for every position,
because "man bites dog" is not "dog bites man". The model works with the sum of the two.

You will see that the lookup is a matrix product with a row of zeros and a one, the same word at two
places, the nearest neighbours of words in the pretrained table, and what the positions learned.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
section 3.1; neighbours by cosine: Mikolov et al. 2013, section 4.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # works without installing, too
import llm  # noqa: F401  (before torch; llm/__init__.py says why)

# isort: split
import torch
import torch.nn.functional as F
from gpt2_plots import embeddings_figure
from lesson import lesson, listing, save, say, section, show, try_next, weights_option

from llm.data.tokenizer import mini_tokenizer
from llm.formats.base import load_base
from llm.utils.errors import InputError

GROUPS = {
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "numbers": "one two three four five six seven eight nine ten",
    "colours": "red green blue white black brown yellow",
    "family": "father mother brother sister son daughter wife husband",
    "telephone and money": "call phone win cash price money",
}


def options(parser):
    weights_option(parser)
    parser.add_argument("--words", default="Monday,two,red,mother,call,money,you,quickly")


def teach(options):
    tokenizer = mini_tokenizer()
    with torch.no_grad():
        model = load_base("mini", options.weights, options.seed).eval()
        lookup(model, tokenizer)
        position(model, tokenizer)
        neighbours(model, tokenizer, options)
        similar = positions(model)
        words = [(group, word) for group, line in GROUPS.items() for word in line.split()]
        rows = [one_token(tokenizer, word) for _, word in words]
        flat = in_two_dimensions(model.tok_emb.weight[rows])  # (words, 2)
        figure = embeddings_figure(words, flat, similar, options.weights)
    save(figure, options.out, "ch03_embeddings.png")
    try_next(
        "--weights random: the neighbours are accidents, and the groups in the figure fall apart. "
        "All that the table knows it learned by predicting the next token.",
        "--words Paris,walked,seven,he: towns beside towns, past tenses beside past tenses.",
        "in neighbours, subtract the mean row from the table before comparing: what all words "
        "share goes, and some neighbours get better.",
    )


def lookup(model, tokenizer):
    section("A lookup is a matrix product")
    index = one_token(tokenizer, "call")
    table = model.tok_emb.weight  # (vocab_size, emb_dim)
    one_hot = F.one_hot(torch.tensor(index), len(table)).float()  # (vocab_size,)
    say(
        f"' call' is token {index}. A row of {len(table):,} numbers, all 0 but number {index}, "
        f"times the table {tuple(table.shape)} is row {index} of the table:"
    )
    product, row = one_hot @ table, model.tok_emb(torch.tensor(index))
    show(
        ["", "first numbers"],
        [
            (name, "  ".join(f"{value:7.4f}" for value in v[:6].tolist()))
            for name, v in (("product", product), ("lookup", row))
        ],
    )
    listing(f"largest difference: {(product - row).abs().max():.1e}; the lookup needs no sums")


def position(model, tokenizer):
    section("The same word at two places")
    text = " call me or I call you"
    ids = torch.tensor(tokenizer.encode(text))  # (tokens,)
    token, place = model.tok_emb(ids), model.pos_emb(torch.arange(len(ids)))
    both = model.embed(ids, torch.arange(len(ids)))  # (tokens, emb_dim)
    assert torch.equal(both, token + place)
    show(
        ["position", "token", "length of its row", "of the position's row", "of the sum"],
        [
            (
                i,
                tokenizer.token(int(ids[i])),
                *(round(float(v[i].norm()), 3) for v in (token, place, both)),
            )
            for i in range(len(ids))
        ],
    )
    say("A sum of two tables: the blocks above learn to tell the parts from each other.")


def neighbours(model, tokenizer, options):
    section("Nearest neighbours")
    say(
        f"The tokens whose rows point most nearly the same way (cosine), {options.weights} "
        "weights. Each token is shown as it is, most with the space before a word."
    )
    table = F.normalize(model.tok_emb.weight, dim=1)  # rows of length 1: products are cosines
    rows = []
    for word in [word.strip() for word in options.words.split(",")]:
        index = one_token(tokenizer, word)
        cosines = table @ table[index]  # (vocab_size,)
        cosines[index] = -1
        best = cosines.topk(5)
        rows.append(
            (
                repr(" " + word),
                "  ".join(
                    f"{tokenizer.token(int(i))} {c:.2f}" for c, i in zip(best.values, best.indices)
                ),
            )
        )
    show(["word", "neighbours and their cosine"], rows)


def positions(model):
    section("Positions")
    table = F.normalize(model.pos_emb.weight - model.pos_emb.weight.mean(0), dim=1)
    similar = table @ table.T  # (context_length, context_length)
    distances = (1, 2, 4, 8, 16, 32, 64, 128)
    say("How alike are the rows of two positions so many tokens apart (mean cosine)?")
    show(
        ["tokens apart", *map(str, distances)],
        [("cosine", *(f"{similar.diagonal(d).mean():.2f}" for d in distances))],
    )
    say(
        "Nobody told the model that position 7 lies beside position 8: after pretraining its "
        "table says so. With random weights all are about 0."
    )
    return similar


def one_token(tokenizer, word):
    """The id of a word with its space. Raises InputError when it is more than one token."""
    ids = tokenizer.encode(" " + word)
    if len(ids) != 1:
        parts = " ".join(map(tokenizer.token, ids))
        raise InputError(f"{word!r} is not one token but {len(ids)} ({parts}); choose another")
    return ids[0]


def in_two_dimensions(rows):
    """(words, emb_dim) -> (words, 2): the plane in which the rows lie farthest apart (PCA)."""
    centred = F.normalize(rows, dim=1)
    centred = centred - centred.mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


if __name__ == "__main__":
    lesson(teach, __doc__, options)
