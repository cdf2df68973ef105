"""Published layouts of preference rows, each read to a `PreferencePair`."""

import collections
import re
from typing import Any

from nemojax.data import dialogues, fields
from nemojax.data.fields import Format
from nemojax.data.records import Conversation, PreferencePair

_JUDGE_PROMPT = re.compile(
    r"###The instruction to evaluate:\n(?P<prompt>.*)"
    r"\n\n###Response to evaluate:\n(?P<response>.*)"
    r"\n\n###Score Rubrics:\n",
    re.DOTALL,
)


def _pair(
    prompt: Conversation,
    chosen: str,
    rejected: str,
    names: tuple[str, str],
    rewards: tuple[float | None, float | None] = (None, None),
) -> PreferencePair:
    """The pair, with the checks that all formats share; `names` are of the fields."""
    for name, response in zip(names, (chosen, rejected), strict=True):
        if not response.strip():
            raise fields.Reject(name, "empty response")
    if chosen.strip() == rejected.strip():
        raise fields.Reject(names[1], "identical responses")
    return PreferencePair(prompt, chosen, rejected, *rewards)


def _pair_of_dialogues(
    chosen: Conversation, rejected: Conversation, names: tuple[str, str]
) -> PreferencePair:
    """The pair of two whole dialogues that differ in the last response."""
    if chosen.prompt != rejected.prompt:
        raise fields.Reject(names[1], "prompts differ")
    return _pair(chosen.prompt, chosen.last_response, rejected.last_response, names)


def _hh(row: fields.Fields) -> PreferencePair:
    chosen, rejected = (
        dialogues.from_paragraphs(fields.text(row, name), name, ends_with="assistant")
        for name in ("chosen", "rejected")
    )
    return _pair_of_dialogues(chosen, rejected, ("chosen", "rejected"))


def _whole_dialogues(row: fields.Fields) -> PreferencePair:
    chosen, rejected = (
        dialogues.from_turns(row[name], name, ends_with="assistant")
        for name in ("chosen", "rejected")
    )
    return _pair_of_dialogues(chosen, rejected, ("chosen", "rejected"))


def _prompt(value: Any, field: str) -> Conversation:
    """A prompt given as text, templated text, or a list of turns."""
    if isinstance(value, str):
        return dialogues.from_template(value, field, ends_with="user")
    return dialogues.from_turns(value, field, ends_with="user")


def _response(value: Any, field: str, prompt: Conversation) -> str:
    """A response given as text, as a turn, or as turns that may repeat the prompt."""
    if isinstance(value, str):
        return value.removesuffix("\n<extra_id_1>")
    turns = value if isinstance(value, list) else [value]
    if len(turns) == 1:
        # A turn by itself is no dialogue: lend it the prompt's last turn.
        opening = {"role": "user", "content": prompt.messages[-1].content}
        turns = [opening, *turns]
        dialogue = dialogues.from_turns(turns, field, ends_with="assistant")
        return dialogue.last_response
    dialogue = dialogues.from_turns(turns, field, ends_with="assistant")
    if dialogue.prompt != prompt:
        raise fields.Reject(field, "prompts differ")
    return dialogue.last_response


def _prompt_and(chosen_name: str, rejected_name: str, prompt_name: str = "prompt"):
    """A parser of rows with a prompt and two responses, perhaps with rewards."""
    names = (chosen_name, rejected_name)

    def parse(row: fields.Fields) -> PreferencePair:
        prompt = _prompt(fields.present(row, prompt_name), prompt_name)
        chosen, rejected = (
            _response(fields.present(row, name), name, prompt) for name in names
        )
        return _pair(prompt, chosen, rejected, names, _rewards(row))

    return parse


def _rewards(row: fields.Fields) -> tuple[float | None, float | None]:
    names = ("chosen_reward", "rejected_reward")
    chosen, rejected = (fields.optional_reward(row, name) for name in names)
    if (chosen is None) != (rejected is None):
        raise fields.Reject(names[0 if chosen is None else 1], "missing field")
    return chosen, rejected


def _compared(
    prompt: Conversation, row: fields.Fields, names: tuple[str, str], preferred: int
) -> PreferencePair:
    """The pair of two responses of which number `preferred` (1 or 2) is better."""
    chosen, rejected = names if preferred == 1 else names[::-1]
    responses = fields.text(row, chosen), fields.text(row, rejected)
    return _pair(prompt, *responses, (chosen, rejected))


def _llmbar(row: fields.Fields) -> PreferencePair:
    prompt = Conversation.of(fields.prompt(row, "input"))
    preferred = fields.choice(row, "label", (1, 2))
    return _compared(prompt, row, ("output_1", "output_2"), preferred)


def _pandalm(row: fields.Fields) -> PreferencePair:
    """The pair as two of three annotators see it; 0 stands for a tie."""
    prompt = fields.prompt(row, "instruction")
    context = fields.optional_text(row, "input")
    if context.strip():
        prompt = f"{prompt}\n\n{context}"
    names = ("response1", "response2")
    for name in names:
        fields.response(row, name)
    annotators = ("annotator1", "annotator2", "annotator3")
    votes = collections.Counter(
        fields.choice(row, name, (0, 1, 2)) for name in annotators
    )
    preferred, count = votes.most_common(1)[0]
    if preferred == 0 or count < 2:
        raise fields.Reject("annotator1", "tie")
    return _compared(Conversation.of(prompt), row, names, preferred)


def _judge_prompts(row: fields.Fields) -> PreferencePair:
    """HHH alignment pairs, each response written into a prompt for a judge."""
    names = ("chosen_instruction", "rejected_instruction")
    pair = []
    for name in names:
        found = _JUDGE_PROMPT.search(fields.text(row, name))
        if found is None:
            raise fields.Reject(name, "no judge prompt")
        text = f"\n\nHuman:{found['prompt']}\n\nAssistant:{found['response']}"
        pair.append(dialogues.from_paragraphs(text, name, ends_with="assistant"))
    chosen, rejected = pair
    return _pair_of_dialogues(chosen, rejected, names)


FORMATS = (
    Format(
        "sharegpt_ranking",
        ("conversations", "chosen", "rejected"),
        _prompt_and("chosen", "rejected", "conversations"),
    ),
    Format(
        "nemo_aligner",
        ("prompt", "chosen_response", "rejected_response"),
        _prompt_and("chosen_response", "rejected_response"),
    ),
    Format(
        "prompt_chosen_rejected",
        ("prompt", "chosen", "rejected"),
        _prompt_and("chosen", "rejected"),
    ),
    Format(
        "whole_dialogues",
        ("chosen", "rejected"),
        _whole_dialogues,
        matches=lambda row: isinstance(row["chosen"], list),
    ),
    Format("hh", ("chosen", "rejected"), _hh),
    Format("llmbar", ("input", "output_1", "output_2"), _llmbar),
    Format("pandalm", ("instruction", "response1", "response2"), _pandalm),
    Format(
        "judge_prompts", ("chosen_instruction", "rejected_instruction"), _judge_prompts
    ),
)
