"""Properties of the HTML page: self-contained, escaped, complete, well-formed."""

import html.parser
import re

import pytest

from nemojax.reporting import page

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(html.parser.HTMLParser):
    """Checks that tags nest, and collects text, tags and attributes."""

    def __init__(self, document: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(document)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


SECTIONS = [
    *("stages", "families", "teacher", "comparisons", "goals", "reward-model"),
    *("samples", "curves", "times", "settings"),
]


def sections(document: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', document)


def test_a_full_report_has_every_section_once(run):
    assert sections(page.render(run)) == SECTIONS


def test_what_a_run_does_not_have_is_left_out(run):
    bare = {key: run[key] for key in ("title", "teacher", "stages")}
    document = page.render(bare)
    Reader(document)
    assert sections(document) == ["stages", "families", "teacher", "times"]


def test_the_page_needs_nothing_but_itself(run):
    document = page.render(run)
    reader = Reader(document)
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "base"}
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name in names)
    assert "url(" not in document
    assert "@import" not in document
    assert "http" not in document


EVIL = '</pre></style><script>alert("1")</script><b onclick=x>&amp;{{ 7*7 }}'


def test_text_of_the_run_never_becomes_markup(run):
    plain = Reader(page.render(run))
    run["title"] = run["subtitle"] = run["teacher"]["name"] = EVIL
    run["notes"] = [EVIL]
    run["settings"][EVIL] = {EVIL: EVIL}
    run["times"][EVIL] = 1.0
    run["curves"][EVIL] = [{"step": 1, "loss": 1.0}]
    run["stages"][0]["name"] = run["stages"][-1]["name"] = EVIL
    for stage in (run["teacher"], *run["stages"]):
        stage["metrics"][EVIL] = stage["metrics"]["math"]
    for sample in run["samples"]:
        sample["prompt"] = sample["family"] = EVIL
        for answer in (sample["before"], sample["after"]):
            answer["text"] = answer["verdict"] = answer["stage"] = EVIL
    for row in run["goals"]:
        row["name"] = row["reason"] = EVIL
    for row in run["reward_model"]["pairs"]:
        row["name"] = EVIL
    document = page.render(run)
    reader = Reader(document)
    assert "<script" not in document
    assert reader.tags == plain.tags
    assert not any(name == "onclick" for name, _ in reader.attributes)
    assert reader.text.count(EVIL) > 15
    assert "{{ 7*7 }}" in document


def test_an_answer_keeps_its_lines_and_spaces(run):
    text = "\n def f(x):\n\treturn  x\n"
    run["samples"][0]["after"]["text"] = text
    # HTML drops the first line break of a <pre>.
    assert f"<pre>\n{text}</pre>" in page.render(run)


def rows(document: str, kind: str) -> list[str]:
    return re.findall(rf'<tr class="{kind}">\s*<th scope="row">([^<]*)', document)


def test_controls_are_marked_as_controls_and_the_teacher_as_teacher(run):
    document = page.render(run)
    controls = [s["name"] for s in run["stages"] if s.get("control")]
    recipe = [s["name"] for s in run["stages"] if not s.get("control")]
    assert rows(document, "control") == controls
    assert rows(document, "teacher") == ["scripted teacher"]
    assert rows(document, "stage") == recipe
    assert document.count('<span class="tag">control</span>') == len(controls)


def test_the_headline_shows_value_interval_and_count(run):
    view = page.view(run)["headline"]
    assert view["columns"][0] == {"name": "math", "n": "n = 1,000"}
    assert view["rows"][0]["cells"][0] == {"value": "62.2", "interval": "59.2 to 65.2"}


def test_counts_that_differ_are_shown_as_a_range(run):
    run["stages"][0]["metrics"]["math"]["n"] = 384
    assert page.view(run)["headline"]["columns"][0]["n"] == "n = 384 to 1,000"


def test_the_student_is_the_last_stage_that_is_no_control(run):
    run["stages"][-1]["control"] = True
    students = page.view(run)["students"]
    assert students["student"] == "RPO 2"
    assert [row["difference"] for row in students["rows"]][:2] == ["+29.3", "+6.2"]
    assert [row["ahead"] for row in students["rows"]] == [True, True, True, False]


def test_goals_have_three_states(run):
    goals = page.view(run)["goals"]
    assert [goal["state"] for goal in goals] == ["reached", "missed", "open"]
    assert [goal["threshold"] for goal in goals] == ["≥ 65.0", "> +0.0", "≥ 45.0"]
    text = Reader(page.render(run)).text
    for state in ("reached", "not reached", "not measured"):
        assert state in text


@pytest.mark.parametrize(
    ("unit", "shown"),
    [
        ("share", "12.3"),
        ("difference", "+12.3"),
        ("number", "0.123"),
        ("seconds", "0.1 s"),
    ],
)
def test_goals_are_shown_in_their_unit(run, unit, shown):
    run["goals"] = [{**run["goals"][0], "value": 0.123, "unit": unit}]
    assert page.view(run)["goals"][0]["value"] == shown


def test_small_p_values_are_not_shown_as_zero(run):
    run["comparisons"][0]["p_value"] = 2e-5
    shown = [row["p_value"] for row in page.view(run)["comparisons"]]
    assert shown == ["< 0.001", "1.000"]


def test_reward_model_panels_share_one_axis(run):
    first, second = page.view(run)["reward_model"]["panels"]
    assert first.ticks == second.ticks
    assert first.reference_at == second.reference_at


def test_times_default_to_the_stages_and_the_longest_fills_the_bar(run):
    del run["times"]
    times = page.view(run)["times"]
    assert len(times["rows"]) == len(run["stages"]) + 1
    assert [row["name"] for row in times["rows"] if row["width"] == "100.00"] == [
        "RPO 3"
    ]


def test_settings_outside_of_groups_come_first(run):
    groups = page.view(run)["settings"]
    assert [group["name"] for group in groups] == ["", "model", "RPO"]
    assert dict(groups[1]["rows"])["parameters"] == "526,080"
    assert dict(groups[2]["rows"])["pairs"] == "2000, 2000, 2000"


def test_a_family_that_only_the_teacher_knows_is_still_drawn(run):
    run["teacher"]["metrics"]["poetry"] = run["teacher"]["metrics"]["math"]
    panel = page.view(run)["panels"][-1]
    assert panel.title == "poetry"
    assert [mark.kind for row in panel.rows for mark in row.marks] == ["teacher"]
