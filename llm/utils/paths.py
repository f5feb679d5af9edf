"""Where things lie: the repository, its results, the bundled base and the bundled adapters."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the repository
DATA = ROOT / "data"  # what is committed: results, the base, adapters
MINI_FOLDER = DATA / "mini"
# Two small adapters that come with the project, so that there is something to try at once.
BUNDLED = {task: DATA / "adapters" / task for task in ("spam", "question")}
# And two that write, as the messages of a label do, with 0 for every digit.
VOICES = {label: DATA / "adapters" / f"{label}_voice" for label in ("ham", "spam")}
EVERYDAY = DATA / "everyday.tsv"  # a hundred messages written for this project, never trained on
