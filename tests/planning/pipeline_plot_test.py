"""Pictures of the schedules."""

from nemojax.planning import pipeline_plot


def test_a_picture_is_drawn(tmp_path):
    pipeline_plot.draw(tmp_path / "gpipe.svg", 2, 2, 4)
    assert "<svg" in (tmp_path / "gpipe.svg").read_text()
