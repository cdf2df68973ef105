"""Report of a stage of alignment: a table, and a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemojax.reporting import plots
from nemojax.training.stage import VALIDATION

Rows = Sequence[Mapping[str, float]]
# Panels of the plot of a preference stage: title, unit, and the metrics in it.
_PAIRS = (
    ("loss", "", ("loss", "preference_loss")),
    (
        "implicit rewards (with beta)",
        "",
        ("implicit_reward_chosen", "implicit_reward_rejected"),
    ),
    ("gap of the rewards", "", ("implicit_reward_gap", "target_reward_gap")),
    ("log-probs of the responses", "nats", ("chosen_log_prob", "rejected_log_prob")),
    ("pairs in the right order", "share", ("accuracy",)),
    ("distance from the reference", "nats", ("kl_estimate",)),
    ("length of the responses", "tokens", ("chosen_tokens", "rejected_tokens")),
    ("gradient norm", "", ("grad_norm",)),
)
_REWARDS = (
    ("loss", "", ("loss",)),
    ("absolute error", "", ("absolute_error",)),
    ("pairs in the right order", "share", ("accuracy",)),
    ("rewards", "", ("chosen_reward", "rejected_reward", "reward_gap")),
)
_TEXT = (
    ("loss", "nats a token", ("loss",)),
    ("gradient norm", "", ("grad_norm",)),
)


@plots.styled
def plot(rows: Rows, path: Path) -> None:
    """Draws the metrics over the steps, the held-out ones as dots."""
    first = rows[0]
    kind = _PAIRS if "chosen_tokens" in first else _REWARDS
    if "squared_error" not in first and "accuracy" not in first:
        kind = _TEXT
    panels = [panel for panel in kind if any(name in first for name in panel[2])]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure, grid = plots.grid(lines, columns, 4.2 * columns, 3.2 * lines)
    for axes, (title, unit, names) in zip(grid.flat, panels, strict=False):
        for name in names:
            if name not in first:
                continue
            steps = [row["step"] for row in rows]
            (line,) = axes.plot(
                steps, [row[name] for row in rows], linewidth=0.9, label=name
            )
            measured = [row for row in rows if VALIDATION + name in row]
            if measured:
                axes.plot(
                    [row["step"] for row in measured],
                    [row[VALIDATION + name] for row in measured],
                    "o",
                    color=line.get_color(),
                    label=f"{name}, held out",
                )
        axes.set(title=title, xlabel="step", ylabel=unit)
        axes.legend()
    for axes in list(grid.flat)[len(panels) :]:
        axes.remove()
    plots.write(figure, path)


def table(rows: Rows) -> list[str]:
    """Tabulates metrics of the first and the last step, and the last ones held out."""
    skip = {"step", "seconds", "learning_rate", "weight", "skipped", "tokens"}
    skip |= {"tokens_per_second", "padding"}
    first, last = rows[0], rows[-1]
    measured = [row for row in rows if any(name.startswith(VALIDATION) for name in row)]
    held = measured[-1] if measured else {}
    names = [name for name in last if not name.startswith(VALIDATION)]
    names += [
        name.removeprefix(VALIDATION) for name in held if name.startswith(VALIDATION)
    ]
    lines = [f"{'':<28}{'first step':>12}{'last step':>12}{'held out':>12}"]
    for name in dict.fromkeys(names):
        if name in skip:
            continue
        values = (first.get(name), last.get(name), held.get(VALIDATION + name))
        cells = "".join(
            f"{'' if value is None else format(value, '.4f'):>12}" for value in values
        )
        lines.append(f"{name:<28}{cells}")
    return lines
