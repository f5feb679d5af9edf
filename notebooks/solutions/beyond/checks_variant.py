"""The numbers of this class, which its exercises ask for and its checks know.

Everybody's variant. `make_exercises.py --seed` makes a class its own.
"""

VARIANT = {
    "ignored": -100,
    "spam_of_100": 13,
    "top_k": 3,
    "unit": "bits",
    "base": 2,
    "tie": "lower",
    "scale_dtype": "float32",
    "block": 64,
    "first_half": "high",
    "filler": 7,
    "scale_bits": 32,
    "short_bits": 8,
}
