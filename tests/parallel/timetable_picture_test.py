"""The picture of the orders of a pipeline in docs/parallelism.md."""

from tests import scripts

timetables = scripts.load("benchmarks.timetables")


def test_a_picture_is_drawn(tmp_path):
    timetables.draw(tmp_path / "plot.svg", 2, 2, 4)
    assert "<svg" in (tmp_path / "plot.svg").read_text()
