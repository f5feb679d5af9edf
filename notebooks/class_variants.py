"""A class's own variant of the exercises, by a seed: other numbers, for the same thought.

`variants/<assignment>.json` lists what may differ, a *slot* each:

    "top-k": {
      "exercises": ["chances"],                      who is graded on it
      "choices": [{"top_k": 3}, {"top_k": 4}],       the first is everybody's, in solutions/
      "places": ["logits.topk(<top_k>)"]             where it stands in the notebooks
    }

A place is a piece of a cell, of the text, the solution or a demonstration, with names for what
differs. Filled in with the first choice it must stand in the notebooks as they are; what takes its
place is the same piece, filled in with another choice. So solutions/ stays what is edited and run,
and everybody's variant looks as if there were no others. The checks read the names from
`checks_variant.py` beside them; names that begin with _ are for the notebooks alone.

Two seeds that follow one another (two years' classes) differ in every slot that has three choices
or more, and each seed differs in every slot from everybody's variant.
"""

import json
import shutil
from pathlib import Path

import nbformat

from llm.utils.files import write_text

HERE = Path(__file__).parent
MODULE = '''"""The numbers of this class, which its exercises ask for and its checks know.

{about}
"""

VARIANT = {{
{lines}}}
'''


def slots_of(assignment: str) -> dict[str, dict]:
    """What may differ in an assignment; empty if nothing does."""
    path = HERE / "variants" / f"{assignment}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def chosen(slots: dict[str, dict], seed: int | None) -> dict[str, dict]:
    """The choice of each slot: the first without a seed, never the first with one."""
    if seed is None:
        return {name: slot["choices"][0] for name, slot in slots.items()}
    return {
        name: slot["choices"][1 + (seed + place) % (len(slot["choices"]) - 1)]
        for place, (name, slot) in enumerate(slots.items())
    }


def filled(place: str, choice: dict) -> str:
    """A place with a choice's words in it."""
    for name, value in choice.items():
        place = place.replace(f"<{name}>", str(value))
    return place


def module(slots: dict[str, dict], seed: int | None) -> str:
    """The text of `checks_variant.py`."""
    lines = [
        f'    "{name}": {json.dumps(value) if isinstance(value, str) else value},\n'
        for choice in chosen(slots, seed).values()
        for name, value in choice.items()
        if not name.startswith("_")
    ]
    about = "Everybody's variant. `make_exercises.py --seed` makes a class its own."
    if seed is not None:
        about = f"Made by `make_exercises.py --seed {seed}`."
    return MODULE.format(about=about, lines="".join(lines))


def make_solutions(source: Path, target: Path, seed: int) -> None:
    """A copy of an assignment's solutions in a seed's variant, not yet run.

    Raises ValueError where a place stands nowhere in the notebooks: they were changed, and
    variants/ was not.
    """
    slots = slots_of(source.name)
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
    if not slots:
        return
    paths = sorted(target.glob("*.ipynb"))
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    cells = [cell for notebook in notebooks for cell in notebook.cells]
    for cell in cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    for name, choice in chosen(slots, seed).items():
        for place in slots[name]["places"]:
            old, new = (filled(place, words) for words in (slots[name]["choices"][0], choice))
            holding = [cell for cell in cells if old in cell.source]
            if not holding:
                raise ValueError(
                    f"variants/{source.name}.json, {name}: {old!r} stands in no notebook"
                )
            for cell in holding:
                cell.source = cell.source.replace(old, new)
    for path, notebook in zip(paths, notebooks):
        write_text(path, nbformat.writes(notebook) + "\n")
    write_text(target / "checks_variant.py", module(slots, seed))
