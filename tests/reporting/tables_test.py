"""Properties of tables: alignment, escaping, what the stage table shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemojax.reporting import tables
from nemojax.reporting.tables import Table

cells = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=9)


def test_numbers_end_in_one_column():
    table = Table(("stage", "math"), (("Base", "3.2"), ("General SFT", "88.6")))
    assert table.to_text().splitlines() == [
        "stage        math",
        "───────────  ────",
        "Base          3.2",
        "General SFT  88.6",
    ]


def test_wide_characters_and_accents_keep_the_columns():
    table = Table(("名前", "n"), (("café", "1"), ("cafe\u0301", "2"), ("模型", "3")))
    lines = table.to_text().splitlines()
    assert lines[2:] == ["café  1", "cafe\u0301  2", "模型  3"]


def test_markdown_aligns_numbers_to_the_right():
    table = Table(("stage", "math"), (("Base", "3.2"),))
    assert table.to_markdown().splitlines() == [
        "| stage | math |",
        "| ----- | ---: |",
        "| Base  |  3.2 |",
    ]


@given(st.lists(st.tuples(cells, cells), max_size=5))
def test_markdown_has_one_line_a_row_and_the_same_columns_in_each(rows):
    lines = Table(("a", "b"), tuple(rows)).to_markdown().splitlines()
    assert len(lines) == len(rows) + 2
    assert all(line.replace("\\|", "").count("|") == 3 for line in lines)


def test_a_line_break_in_a_cell_does_not_break_the_markdown_row():
    assert len(Table(("a",), (("x\ny",),)).to_markdown().splitlines()) == 3


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        Table(("a",), (("x", "y"),))


@pytest.mark.parametrize(
    ("cell", "full", "short"),
    [
        (
            {"value": 0.6142, "n": 9, "interval": [0.5, 0.7]},
            "61.4 [50.0, 70.0]",
            "61.4 ±10.0",
        ),
        ({"value": 0.5, "n": 1, "interval": None}, "50.0", "50.0"),
        (None, "–", "–"),
    ],
)
def test_estimates_are_in_percent_with_their_interval(cell, full, short):
    assert tables.estimate(cell) == full
    assert tables.plus_minus(cell) == short


def test_differences_carry_their_sign_and_zero_is_not_negative():
    cell = {"value": 0.012, "n": 9, "interval": [-0.0001, 0.03]}
    assert tables.estimate(cell, signed=True) == "+1.2 [+0.0, +3.0]"
    assert tables.percent(-0.25, signed=True) == "−25.0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (489, "8 min 09 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (None, "–"),
    ],
)
def test_durations_round_without_sixty_seconds(seconds, text):
    assert tables.duration(seconds) == text


def test_the_stage_table_shows_teacher_controls_and_what_is_missing(run):
    del run["stages"][0]["metrics"]["facts"]
    table = tables.stage_table(run)
    assert table.header == ("stage", "math", "code", "instructions", "facts", "time")
    names = [row[0] for row in table.rows]
    assert names[:2] == ["(scripted teacher)", "Base"]
    assert "Unfiltered data [control]" in names
    assert table.rows[1][4] == "–"
    assert table.rows[0][1] == "62.2 ±3.0"
    assert len(table.rows) == len(run["stages"]) + 1


def test_families_come_in_the_order_of_their_first_appearance(run):
    run["stages"][2]["metrics"]["safety"] = run["teacher"]["metrics"]["math"]
    assert tables.families(run)[-2:] == ["facts", "safety"]
