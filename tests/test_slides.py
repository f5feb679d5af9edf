"""The decks show figures that there are, and open without a network."""

import importlib.util
import re

import make_slides
import pytest

DECKS = sorted((make_slides.NOTEBOOKS / "slides").glob("*.md"))
NEEDED = ("sphinx", "myst_parser", "sphinx_revealjs", "latex2mathml")


def test_every_figure_of_a_deck_is_there(tmp_path):
    there = make_slides.take_figures(tmp_path / "figures")
    shown = [
        name for deck in DECKS for name in re.findall(r"\(figures/([^)]+)\)", deck.read_text())
    ]
    assert len(shown) > 8
    assert set(shown) <= set(there)


def test_the_tables_are_taken_from_readme():
    readme = (make_slides.ROOT / "README.md").read_text(encoding="utf-8")
    text = "".join(deck.read_text(encoding="utf-8") for deck in DECKS)
    markers = re.findall(r":(?:start-after|end-before): (<!--.+-->)", text)
    assert len(markers) == 4
    assert all(readme.count(marker) == 1 for marker in markers)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="the decks are made with what requirements-dev.txt installs",
)
def test_the_decks_open_without_a_network(tmp_path):
    make_slides.make_slides(tmp_path / "slides")
    for deck in DECKS:
        page = (tmp_path / "slides" / f"{deck.stem}.html").read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|link|img)[^>]+?(?:src|href)=\"([^\"]+)\"", page)
        assert len(loaded) > 3
        for address in loaded:
            assert not re.match(r"(https?:)?//", address)
            assert (tmp_path / "slides" / address.partition("?")[0]).exists(), address
