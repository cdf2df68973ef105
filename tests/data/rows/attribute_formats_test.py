import pytest

from nemojax.data.records import ATTRIBUTES, MISSING, AttributeLabels, Conversation
from nemojax.data.rows import formats
from nemojax.data.rows.attribute_formats import FORMATS
from nemojax.io import fields, files
from nemojax.io.fields import Cell

HELPSTEER = {
    "prompt": "q",
    "response": "a",
    **dict(zip(ATTRIBUTES, (4, 3, 2, 1, 0), strict=True)),
}
TEXT = (
    "<extra_id_0>System\ns\n<extra_id_1>User\nq\n<extra_id_1>Assistant\na\n<extra_id_2>"
)
NEMO = {"text": TEXT, "label": [MISSING] * 4 + [4.0, 3.0, 2.0, 1.0, 0.0]}
LABELS = (4.0, 3.0, 2.0, 1.0, 0.0)


def parse(row):
    return next(entry for entry in FORMATS if entry.recognises(row)).parse(row)


def rejection(row):
    with pytest.raises(fields.Reject) as caught:
        parse(row)
    return caught.value.field, caught.value.reason


def test_helpsteer_labels_come_in_the_order_of_the_attributes():
    assert formats.detect(HELPSTEER) == "helpsteer"
    shuffled = dict(sorted(HELPSTEER.items()))
    expected = AttributeLabels(Conversation.of("q", "a"), LABELS)
    assert parse(HELPSTEER) == parse(shuffled) == expected


def test_helpsteer_prompts_may_hold_several_turns():
    prompt = "q\n<extra_id_1>Assistant\nx\n<extra_id_1>User\ny"
    conversation = parse(HELPSTEER | {"prompt": prompt}).conversation
    contents = [message.content for message in conversation.messages]
    assert contents == ["q", "x", "y", "a"]


def test_nemo_rows_hold_the_five_attributes_last():
    """Of nine labels, the first four are of other attributes, labelled or not."""
    assert formats.detect(NEMO) == "nemo_regression"
    expected = AttributeLabels(Conversation.of("q", "a", "s"), LABELS)
    assert parse(NEMO) == expected
    assert parse(NEMO | {"label": list(LABELS)}) == expected
    assert parse(NEMO | {"label": [1.0, 0.5, 4, 4, *LABELS]}) == expected


def test_missing_labels_stay_marked():
    label = [MISSING, 3.5, MISSING, -100, 0]
    assert parse(NEMO | {"label": label}).labels == (MISSING, 3.5, MISSING, MISSING, 0)


@pytest.mark.parametrize("label", [-1, 4.5, float("nan"), float("inf"), 10**400])
def test_labels_outside_the_scale_are_rejected(label):
    row = HELPSTEER | {"coherence": label}
    assert rejection(row) == ("coherence", "label out of range")
    row = NEMO | {"label": [label, *LABELS[1:]]}
    assert rejection(row) == ("label", "label out of range")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        (HELPSTEER | {"verbosity": "4"}, "verbosity", "wrong type"),
        (HELPSTEER | {"verbosity": True}, "verbosity", "wrong type"),
        (HELPSTEER | {"response": ""}, "response", "empty response"),
        (HELPSTEER | {"prompt": ""}, "prompt", "empty prompt"),
        (NEMO | {"label": [1, 2, 3]}, "label", "neither 5 nor 9 labels"),
        (NEMO | {"label": 4}, "label", "wrong type"),
        (NEMO | {"label": ["4"] * 5}, "label", "wrong type"),
        (NEMO | {"label": [MISSING] * 9}, "label", "no label"),
        (NEMO | {"label": [1, 1, 1, 1] + [MISSING] * 5}, "label", "no label"),
        (NEMO | {"text": "plain text"}, "text", "roles out of order"),
    ],
)
def test_broken_rows_are_named_by_the_field(row, field, reason):
    assert rejection(row) == (field, reason)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_that_is_absent_null_or_empty_is_missing(name):
    """So sets that label different attributes can be mixed."""
    place = ATTRIBUTES.index(name)
    expected = (*LABELS[:place], MISSING, *LABELS[place + 1 :])
    without = {key: value for key, value in HELPSTEER.items() if key != name}
    unlabelled = [
        {},
        {name: None},
        {name: -100},
        {name: Cell("")},
        {name: Cell("-100")},
    ]
    for change in unlabelled:
        assert formats.detect(without | change) == "helpsteer"
        assert parse(without | change).labels == expected


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_one_attribute_tells_the_format_and_none_is_no_label(name):
    row = {"prompt": "q", "response": "a", name: 3}
    assert formats.detect(row) == "helpsteer"
    assert sorted(parse(row).labels) == [MISSING] * 4 + [3.0]
    assert rejection(row | {name: None}) == ("helpfulness", "no label")
    bad = files.Row(row, "rows.jsonl", 1).reject("helpfulness", "no label")
    assert not bad.malformed


def test_numbers_may_be_text_in_cells_alone():
    cells = {key: Cell(value) for key, value in HELPSTEER.items()}
    assert parse(cells) == parse(HELPSTEER)
    assert parse(cells | {"coherence": Cell(" 3.5 ")}).labels[2] == 3.5
    for text, reason in [
        ("high", "wrong type"),
        ("5", "label out of range"),
        ("nan", "label out of range"),
    ]:
        assert rejection(cells | {"coherence": Cell(text)}) == ("coherence", reason)
