"""Slides that open without a network, with the notebooks' own figures: `build/slides/index.html`.

    pip install -r requirements-dev.txt
    python notebooks/make_slides.py

The decks are the pages in `notebooks/slides`. A figure is named after where it stands:
`figures/03_memory-2.png` is the second figure of notebook 3, as that is committed;
`figures/overview.png` is `data/overview.png`. Tables of results come from README, between its
markers, so that a deck cannot tell older numbers than the page.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent
ROOT = NOTEBOOKS.parent


def take_figures(folder: Path) -> list[str]:
    """Write every figure of the notebooks and of `data/` into `folder`. Returns their names."""
    folder.mkdir(parents=True)
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        outputs = [output.get("data", {}) for c in cells for output in c.get("outputs", [])]
        pictures = [data["image/png"] for data in outputs if "image/png" in data]
        for number, picture in enumerate(pictures, start=1):
            path = folder / f"{notebook.stem}-{number}.png"
            path.write_bytes(base64.b64decode("".join(picture)))
    for picture in sorted((ROOT / "data").glob("*.png")):
        shutil.copy(picture, folder)
    return sorted(path.name for path in folder.iterdir())


def make_slides(out: Path) -> None:
    """Build all decks into `out`; a warning of Sphinx is an error."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "slides"
        shutil.copytree(NOTEBOOKS / "slides", source)
        shutil.copy(NOTEBOOKS / "site" / "mathml.py", source)  # formulae as on the site
        shutil.copy(ROOT / "README.md", source / "README.txt")  # .txt: no page of its own
        take_figures(source / "figures")
        command = [sys.executable, "-m", "sphinx", "-b", "revealjs", "-W", "--keep-going", "-q"]
        done = subprocess.run([*command, str(source), str(out)])
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    target = ROOT / "build" / "slides"
    make_slides(target)
    print(f"open {target / 'index.html'} in a browser; the arrow keys turn the pages")
