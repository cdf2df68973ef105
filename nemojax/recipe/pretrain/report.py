"""Report of a pretraining run: its mix and its plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nemojax.data.pretraining.samples import Samples
from nemojax.recipe.pretrain.pretraining import BITS
from nemojax.reporting import plots


def mix(source: Samples, samples: int) -> dict[str, dict[str, float]]:
    """Returns the realised mix by component: samples, share, epochs of its text."""
    counts = source.counts(samples)
    wanted = source.expected(samples)
    return {
        name: {
            "samples": count,
            "share": count / max(samples, 1),
            "wanted": wanted[name] / max(samples, 1),
            "epochs": source.epochs(name, count),
        }
        for name, count in counts.items()
    }


def classes(found: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Returns the shares of the samples by class."""
    shares: dict[str, float] = {}
    for name, one in found.items():
        key = name.partition("/")[0]
        shares[key] = shares.get(key, 0.0) + one["share"]
    return shares


@plots.styled
def plot(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the training loss and the held-out bits per byte over the tokens."""
    figure, grid = plots.grid(1, 2, 9, 3.6)
    loss, bits = grid.flat
    tokens = [row.get("tokens", row["step"]) / 1e6 for row in rows]
    loss.plot(tokens, [row["loss"] for row in rows], linewidth=0.8)
    loss.set(title="training loss", xlabel="million tokens", ylabel="nats a token")
    names = sorted({name for row in rows for name in row if name.startswith(BITS)})
    for name in names:
        points = [
            (at, row[name]) for at, row in zip(tokens, rows, strict=True) if name in row
        ]
        bits.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix(BITS))
    bits.set(title="held-out text", xlabel="million tokens", ylabel="bits a byte")
    if names:
        bits.legend()
    plots.write(figure, path)
