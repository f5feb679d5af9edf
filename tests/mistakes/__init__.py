"""Wrong answers to the exercises, a file a lesson: `lora_1.py` is solutions/lora/1_*.ipynb.

Each may hold three tables, and must hold the first:

WRONG     (exercise, what stands in the solution, what a learner writes, words of the hint):
          every exercise has at least four.
RIGHT     (exercise, what stands in the solution, another right way): the check must accept it.
BY_HEART  exercise: code that gives what the visible check asks for, and nothing else; the hidden
          tests must refuse it.
"""
