"""The study of LoRA's knobs as Markdown tables for README.md."""

METRIC = {"writing": ("bits_per_byte", 1, 3), "spam": ("f1", 100, 1)}  # name, times, digits
FEW = 4  # runs that a mean takes at least


def knob_table(results: dict) -> str:
    """Every cell of a data/knobs.json on both tasks, each at its own rate; empty without its runs.

    A difference is the cell's minus the default's, with Student's 95 % interval over the pairs of
    seed and split.
    """
    cells = [cell for cell in results["cells"] if cell["units"] >= FEW]
    names = list(dict.fromkeys(cell["cell"] for cell in cells))
    found = {(cell["cell"], cell["task"]): cell for cell in cells}
    trained = {  # without the head of a classifier
        name: min(c["trainable_parameters"] for c in results["cells"] if c["cell"] == name)
        for name in names
    }
    rows = [
        "| | trained numbers | writing: rate | bits a byte | minus the default "
        "| spam: rate | F1, % | minus the default | diverged |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name in names:
        mine = [found.get((name, task)) for task in METRIC]
        cells = [cell for cell in mine if cell]
        row = [name, f"{trained[name]:,}"]
        for cell in mine:
            row += _columns(cell) if cell else ["", "", ""]
        gone, made = (sum(c[key] for c in cells) for key in ("diverged_at_any_rate", "all_runs"))
        rows.append("| " + " | ".join([*row, f"{gone} of {made}"]) + " |")
    return "\n".join(rows)


def rate_table(results: dict) -> str:
    """The best rate for each rank and rule, and what the default's rate loses there, on writing."""
    cells = rule_cells(results, "writing")
    rules = list(dict.fromkeys(cell["rule"] for cell in cells if cell["rule"]))
    ranks = sorted({cell["rank"] for cell in cells})
    rows = [
        "| rank | " + " | ".join(f"{rule}: best rate | lost at the default's" for rule in rules)
    ]
    rows[0] += " |"
    rows.append("| --: |" + " --: |" * 2 * len(rules))
    for rank in ranks:
        row = [str(rank)]
        for rule in rules:
            mine = [c for c in cells if c["rank"] == rank and c["rule"] in (rule, None)]
            if not mine:
                row += ["not measured", ""]
                continue
            (cell,) = mine
            lost = cell.get("validation_lost_at_the_default_rate")
            row += [rate(cell), "no number" if lost is None else f"{lost:.3f}"]
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def rule_cells(results: dict, task: str) -> list[dict]:
    """The cells of a task that turn rank and rule, and the default, where all rules agree."""
    return [
        cell
        for cell in results["cells"]
        if cell["task"] == task and (cell["rule"] or cell["knob"] == "default") and cell["chosen"]
    ]


def rate(cell: dict) -> str:
    """A cell's chosen rate; marked where the grid ended there."""
    return f"{cell['chosen']:.3g}" + ("*" if cell["at_edge"] else "")


def _columns(cell: dict) -> list[str]:
    """Rate, mean ± standard deviation, and the difference to the default."""
    name, times, digits = METRIC[cell["task"]]
    shown = [rate(cell), "", ""]
    if name in cell["test"]:
        found = cell["test"][name]
        shown[1] = f"{times * found['mean']:.{digits}f}"
        if found["std"] is not None:
            shown[1] += f" ± {times * found['std']:.{digits}f}"
        if cell["diverged"]:
            shown[1] += f" ({cell['diverged']} of {cell['units']} diverged)"
    pairs = cell.get("paired", {}).get(name)
    if pairs:
        mean, low, high = (
            f"{times * pairs[key]:+.{digits}f}" for key in ("mean", "student_low", "student_high")
        )
        shown[2] = f"{mean} ({low} to {high})"
    return shown
