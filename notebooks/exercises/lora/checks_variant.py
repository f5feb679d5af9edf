"""The numbers of this class, which its exercises ask for and its checks know.

Everybody's variant. `make_exercises.py --seed` makes a class its own.
"""

VARIANT = {
    "own_rule": None,
    "own_power": None,
    "skipped_blocks": 0,
    "bytes": 4,
    "means": 2,
    "optimizer": "AdamW",
    "enough_multiple": 1,
    "budget_multiple": 1,
    "metric": "f1",
}
