"""The orders of a pipeline as a picture, drawn from `parallel.timetable`.

    python -m benchmarks.timetables

Draws docs/timetables.png: four stages of two chunks, eight micro-batches.
"""

import pathlib

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from nemojax.parallel.timetable import Timetable, Work
from nemojax.reporting import plots

_TICK, _STAGE = 0.26, 0.4  # inches


@plots.styled
def draw(
    path: pathlib.Path, stages: int, virtual_stages: int, micro_batches: int
) -> None:
    """Draws the gpipe's forward passes, and 1F1B.

    Time to the right, a row a stage, a colour a chunk; backward passes are pale.
    """
    timetables = [
        Timetable(micro_batches, virtual_stages, stages, stage)
        for stage in range(stages)
    ]
    ticks = timetables[0].ticks
    size = _TICK * ticks + 1.2, 3 * _STAGE * stages + 1.9
    figure, grid = plots.grid(2, 1, *size, height_ratios=(1, 2), sharex=True)
    gpipe, both = grid.flat
    every = np.arange(ticks)
    for row, timetable in enumerate(timetables):
        forwards, backwards = timetable.forwards(every), timetable.backwards(every)
        _row(gpipe, row, forwards, virtual_stages)
        _row(both, row - 0.22, forwards, virtual_stages, height=0.4)
        _row(both, row + 0.22, backwards, virtual_stages, height=0.4, alpha=0.5)
    names = [f"stage {stage}" for stage in range(stages)]
    for axis, title in (
        (gpipe, f"gpipe, forward passes: {timetables[0].bubble:.1%} bubble"),
        (both, f"1F1B, {timetables[0].slots} chunks waiting at most"),
    ):
        axis.invert_yaxis()
        axis.set_yticks(range(stages), names)
        axis.set_xlim(0, ticks)
        axis.set_title(title)
        axis.grid(False)
    both.set_xlabel("tick; the number is the micro-batch, the colour the chunk")
    plots.write(figure, path)


def _row(
    axis: Axes,
    at: float,
    work: Work,
    virtual_stages: int,
    height: float = 0.8,
    alpha: float = 1.0,
) -> None:
    colours = matplotlib.colormaps["viridis"]
    real, chunk, micro_batch = (np.asarray(array) for array in work[:3])
    for tick in np.flatnonzero(real):
        shade = (chunk[tick] + 0.5) / virtual_stages
        axis.barh(
            at, 1, height, left=tick, color=colours(shade), edgecolor="w", alpha=alpha
        )  # fmt: skip
        axis.text(
            tick + 0.5,
            at,
            str(micro_batch[tick]),
            ha="center",
            va="center",
            fontsize=6,
            color="black" if shade > 0.6 or alpha < 1 else "white",
        )


if __name__ == "__main__":
    draw(
        pathlib.Path("docs/timetables.png"), stages=4, virtual_stages=2, micro_batches=8
    )
