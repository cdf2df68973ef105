"""The picture of the orders of a pipeline in docs/parallelism.md."""

from benchmarks import timetables


def test_a_picture_is_drawn(tmp_path):
    timetables.draw(tmp_path / "ring.svg", 2, 2, 4)
    assert "<svg" in (tmp_path / "ring.svg").read_text()
