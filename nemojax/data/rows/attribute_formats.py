"""Published layouts of attribute-labelled rows, each read to an `AttributeLabels`."""

from collections.abc import Iterable
from typing import Any

from nemojax.data.records import ATTRIBUTES, MISSING, AttributeLabels, Conversation
from nemojax.data.rows import dialogues
from nemojax.data.rows.row_format import Format
from nemojax.io import fields


def _labels(values: Iterable[tuple[str, Any]]) -> tuple[float, ...]:
    """Checks the labels of (field, value) pairs: from 0 to 4, or `MISSING`."""
    labels = []
    for name, value in values:
        label = fields.number(value, name)
        if label != MISSING and not 0 <= label <= 4:  # NaN is in no range
            raise fields.Reject(name, "label out of range")
        labels.append(label)
    return tuple(labels)


def _helpsteer(row: fields.Fields) -> AttributeLabels:
    prompt = dialogues.from_template(
        fields.prompt(row, "prompt"), "prompt", ends_with="user"
    )
    conversation = prompt.with_response(fields.response(row, "response"))
    # Sets that label different attributes may be mixed in one file.
    labels = _labels(
        (name, MISSING if fields.is_absent(row, name) else row[name])
        for name in ATTRIBUTES
    )
    return _labelled(conversation, labels, ATTRIBUTES[0])


def _nemo_regression(row: fields.Fields) -> AttributeLabels:
    """Parses templated text with nine labels, ours last, or only with ours."""
    conversation = dialogues.from_template(
        fields.prompt(row, "text"), "text", ends_with="assistant"
    )
    values = fields.present(row, "label")
    if not isinstance(values, list):
        raise fields.Reject("label", "wrong type")
    if len(values) not in (5, 9):
        raise fields.Reject("label", "neither 5 nor 9 labels")
    labels = _labels(("label", value) for value in values)
    return _labelled(conversation, labels[-len(ATTRIBUTES) :], "label")


def _labelled(
    conversation: Conversation, labels: tuple[float, ...], field: str
) -> AttributeLabels:
    if all(label == MISSING for label in labels):
        raise fields.Reject(field, "no label")
    return AttributeLabels(conversation, labels)


FORMATS = (
    Format("helpsteer", ("prompt", "response"), _helpsteer, any_of=ATTRIBUTES),
    Format("nemo_regression", ("text", "label"), _nemo_regression),
)
