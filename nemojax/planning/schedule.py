"""The pipeline's schedule as a table and as a picture; `parallel.pipeline` runs it."""

import dataclasses
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclasses.dataclass(frozen=True)
class Work:
    """What a stage does at a tick: a chunk of layers on a micro-batch."""

    tick: int
    stage: int
    chunk: int
    micro_batch: int


def forward_table(pipe: int, virtual_stages: int, micro_batches: int) -> list[Work]:
    """All work of the forward ring, by the formulas in `parallel.pipeline`."""
    found = []
    for stage in range(pipe):
        for place in range(micro_batches * virtual_stages):
            group, rest = divmod(place, pipe * virtual_stages)
            chunk, member = divmod(rest, pipe)
            tick = place + stage
            found.append(Work(tick, stage, chunk, group * pipe + member))
    return found


def bubble(pipe: int, virtual_stages: int, micro_batches: int) -> float:
    """Idle ticks of a stage as a share of its work: (P - 1) / (V M)."""
    return (pipe - 1) / (virtual_stages * micro_batches)


def draw(
    path: pathlib.Path, pipe: int, virtual_stages: int, micro_batches: int
) -> None:
    """Draws the forward ring: time to the right, a row a stage, a colour a chunk."""
    table = forward_table(pipe, virtual_stages, micro_batches)
    ticks = 1 + max(work.tick for work in table)
    colours = plt.get_cmap("viridis")
    figure, axis = plt.subplots(figsize=(0.36 * ticks + 1.2, 0.4 * pipe + 1.3))
    for work in table:
        shade = (work.chunk + 0.5) / virtual_stages
        axis.barh(work.stage, 1, left=work.tick, color=colours(shade), edgecolor="w")
        axis.text(
            work.tick + 0.5,
            work.stage,
            str(work.micro_batch),
            ha="center",
            va="center",
            fontsize=7,
            color="black" if shade > 0.6 else "white",
        )
    axis.invert_yaxis()
    axis.set_yticks(range(pipe), [f"stage {stage}" for stage in range(pipe)])
    axis.set_xlim(0, ticks)
    axis.set_xlabel("tick; the number is the micro-batch, the colour the chunk")
    share = bubble(pipe, virtual_stages, micro_batches)
    axis.set_title(
        f"{pipe} stages x {virtual_stages} chunks, {micro_batches} micro-batches: "
        f"bubble {share:.1%}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
