"""Properties of the HTML page: self-contained, escaped, complete, well-formed."""

import html
import html.parser
import re

import pytest

from nemojax.reporting import page, run_page, tables

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
    *("filter", "samples", "curves", "times", "settings"),
]


def sections(document: str) -> list[str]:
    return re.findall(r'<section id="([\w-]+)"', document)


def test_a_full_report_has_every_section_once(run):
    assert sections(run_page.render(run)) == SECTIONS


def test_what_a_run_does_not_have_is_left_out(run):
    bare = {key: run[key] for key in ("title", "teacher", "stages")}
    document = run_page.render(bare)
    Reader(document)
    assert sections(document) == ["stages", "families", "teacher", "times"]


def test_the_page_needs_nothing_but_itself(run):
    document = run_page.render(run)
    reader = Reader(document)
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "base"}
    names = {name for name, _ in reader.attributes}
    assert not names & {"src", "href", "srcset", "action"}
    assert not any(name.startswith("on") for name in names)
    links = [value for name, value in reader.attributes if name == "xlink:href"]
    assert all(value.startswith("#") for value in links)
    ids = {value for name, value in reader.attributes if name == "id"}
    assert {value[1:] for value in links} <= ids
    assert document.count("url(") == document.count("url(#")
    assert "@import" not in document
    assert "http" not in document


EVIL = '</pre></style><script>alert("1")</script><b onclick=x>&amp;{{ 7*7 }}'


def test_text_of_the_run_never_becomes_markup(run):
    plain = Reader(run_page.render(run))
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
        row["name"] = EVIL
    for row in run["reward_model"]["pairs"]:
        row["name"] = EVIL
    document = run_page.render(run)
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
    assert f"<pre>\n{text}</pre>" in run_page.render(few(run, "samples"))


def rows(document: str, kind: str) -> list[str]:
    return re.findall(rf'<tr class="{kind}">\s*<th scope="row">([^<]*)', document)


def test_controls_are_marked_as_controls_and_the_teacher_as_teacher(run):
    document = run_page.render(run)
    controls = [s["name"] for s in run["stages"] if s.get("control")]
    recipe = [s["name"] for s in run["stages"] if not s.get("control")]
    assert rows(document, "control") == controls
    assert rows(document, "teacher") == ["scripted teacher"]
    assert rows(document, "stage") == recipe
    assert document.count('<span class="tag">control</span>') == len(controls)


def few(run, *keys):
    """The run with one family of tasks and some sections only; quick to draw."""
    for stage in (run["teacher"], *run["stages"]):
        stage["metrics"] = {"math": stage["metrics"]["math"]}
    return {key: run[key] for key in ("title", "teacher", "stages", *keys)}


def shown(document: str, section: str) -> list[list[str]]:
    """The text of a section's cells, row by row."""
    (part,) = re.findall(rf'<section id="{section}">.*?</section>', document, re.S)
    lines = re.findall(r"<tr.*?</tr>", part, re.S)
    cells = [re.findall(r"<(t[hd])\b[^>]*>(.*?)</\1>", line, re.S) for line in lines]
    return [
        [
            " ".join(html.unescape(re.sub("<[^>]*>", " ", text)).split())
            for _, text in line
        ]
        for line in cells
    ]


def test_the_headline_shows_value_interval_and_count(run):
    header, teacher, *_ = shown(run_page.render(run), "stages")
    assert header[:2] == ["Stage", "math n = 1,000"]
    assert teacher[1] == "62.2 59.2 to 65.2"


def test_counts_that_differ_are_shown_as_a_range(run):
    run["stages"][0]["metrics"]["math"]["n"] = 384
    header = shown(run_page.render(few(run)), "stages")[0]
    assert header[1] == "math n = 384 to 1,000"


def test_the_student_is_the_last_stage_that_is_no_control(run):
    run["stages"][-1]["control"] = True
    document = run_page.render(run)
    assert '<li class="stage"><i></i>RPO 2</li>' in document
    rows = shown(document, "teacher")[1:]
    assert [row[-1] for row in rows][:2] == ["+29.3", "+6.2"]
    tones = re.findall(r'class="(ahead|behind)"><b>', document)
    assert tones[:4] == ["ahead", "ahead", "ahead", "behind"]


def test_goals_have_three_states(run):
    rows = shown(run_page.render(few(run, "goals")), "goals")[1:]
    assert [row[1] for row in rows] == ["≥ 65.0", "≥ +0.0", "≥ 45.0"]
    states = [row[0] for row in rows]
    assert states[0].endswith("own pairs reached")
    assert states[1].endswith("not reached")
    assert states[2].endswith("not measured")


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("share", "12.3"),
        ("difference", "+12.3"),
    ],
)
def test_goals_are_shown_in_their_unit(run, unit, text):
    run["goals"] = [{**run["goals"][0], "value": 0.123, "unit": unit, "interval": None}]
    assert shown(run_page.render(few(run, "goals")), "goals")[1][2] == text


def test_small_p_values_are_not_shown_as_zero(run):
    run["comparisons"][0]["p_value"] = 2e-5
    rows = shown(run_page.render(few(run, "comparisons")), "comparisons")[1:]
    assert [row[-1] for row in rows] == ["< 0.001", "1.000"]


def test_times_default_to_the_stages_and_the_longest_fills_the_bar(run):
    document = run_page.render(few(run))
    bars = re.findall(r"<div><span>([^<]*)</span>.*?width: ([\d.]+)%", document)
    assert len(bars) == len(run["stages"]) + 1
    assert [name for name, width in bars if width == "100.00"] == ["RPO 3"]


def test_settings_outside_of_groups_come_first(run):
    groups = page.lists(run["settings"])["groups"]
    assert [group["name"] for group in groups] == ["", "model", "RPO"]
    assert dict(groups[1]["rows"])["parameters"] == "526,080"
    assert dict(groups[2]["rows"])["pairs"] == "2000, 2000, 2000"


def test_a_family_that_only_the_teacher_knows_is_still_drawn(run):
    run["teacher"]["metrics"]["poetry"] = run["teacher"]["metrics"]["math"]
    document = run_page.render(run)
    (panel,) = re.findall(r'<svg[^>]*aria-label="poetry">.*?</svg>', document, re.S)
    assert "scripted teacher</text>" in panel and "var(--teacher)" in panel


def test_what_is_missing_is_a_dash():
    assert page.estimate(None).value == tables.MISSING
