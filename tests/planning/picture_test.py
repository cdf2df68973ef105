"""Pictures of the schedules."""

from nemojax.planning import picture


def test_a_picture_is_drawn(tmp_path):
    picture.draw(tmp_path / "ring.svg", 2, 2, 4)
    assert "<svg" in (tmp_path / "ring.svg").read_text()
