"""Learn a vocabulary from a corpus, once: a run that goes on finds the one it began with."""

from pathlib import Path

from llm.data.bpe import count_words, train_bpe
from llm.data.corpus import documents_of
from llm.data.tokenizer import DESCRIPTION, Tokenizer, saved_tokenizer
from llm.utils.errors import InputError
from llm.utils.files import make_folder, read_json, remove, sha256_of_file, write_json


def learn_vocabulary(
    files: list[str | Path], out: Path, vocab_size: int, part: str, quiet: bool = True
) -> Tokenizer:
    """A vocabulary of `vocab_size` tokens, end of text included, written to `out`.

    One that lies there is used again if it was learned from the same files, as
    `out/corpus/vocabulary_from.json` says; another one is replaced.

    Args:
        part: of the documents, as in `llm.data.corpus.documents_of`.

    Raises InputError when a file cannot be read.
    """
    hashes = [sha256_of_file(file) for file in files]
    learned_from = {"vocab_size": vocab_size, "part": part, "sha256": hashes}
    note = out / "corpus" / "vocabulary_from.json"
    if (out / DESCRIPTION).exists() and _read(note) == learned_from:
        return saved_tokenizer(out)
    words = count_words(documents_of(files, part))
    ranks = train_bpe(words, vocab_size - 1, progress=not quiet)  # 1 for end of text
    tokenizer = Tokenizer(out.name, ranks, len(ranks))
    remove(note)  # while the two do not belong together there is none
    tokenizer.save(out)
    write_json(make_folder(note.parent) / note.name, learned_from)
    return tokenizer


def _read(note: Path) -> dict | None:
    try:
        return read_json(note)
    except InputError:  # absent or damaged
        return None
