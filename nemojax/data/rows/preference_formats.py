"""Published layouts of preference rows, each read to a `PreferencePair`."""

import collections
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from nemojax.data.records import Conversation, PreferencePair
from nemojax.data.rows import dialogues
from nemojax.data.rows.row_format import Format
from nemojax.io import fields

_JUDGE_PROMPT = re.compile(
    r"###The instruction to evaluate:\n(?P<prompt>.*)"
    r"\n\n###Response to evaluate:\n(?P<response>.*)"
    r"\n\n###Score Rubrics:\n",
    re.DOTALL,
)

# Fields of a pair beside its texts.
_Numbers = Mapping[str, Any]
_NONE: _Numbers = MappingProxyType({})


def _pair(
    prompt: Conversation,
    chosen: str,
    rejected: str,
    names: tuple[str, str],
    numbers: _Numbers = _NONE,
) -> PreferencePair:
    """Makes a pair with the checks of all formats; `names` are of the fields."""
    for name, response in zip(names, (chosen, rejected), strict=True):
        if not response.strip():
            raise fields.Reject(name, "empty response")
    if chosen.strip() == rejected.strip():
        raise fields.Reject(names[1], "identical responses")
    return PreferencePair(prompt, chosen, rejected, **numbers)


def _pair_of_dialogues(
    chosen: Conversation,
    rejected: Conversation,
    names: tuple[str, str],
    numbers: _Numbers = _NONE,
) -> PreferencePair:
    """Makes a pair of two dialogues that differ in the last response."""
    if chosen.prompt != rejected.prompt:
        raise fields.Reject(names[1], "prompts differ")
    better, worse = (
        dialogues.trained_text(dialogue.messages[-1], name)
        for dialogue, name in zip((chosen, rejected), names, strict=True)
    )
    return _pair(chosen.prompt, better, worse, names, numbers)


def _hh(row: fields.Fields) -> PreferencePair:
    chosen, rejected = (
        dialogues.from_paragraphs(fields.text(row, name), name, ends_with="assistant")
        for name in ("chosen", "rejected")
    )
    return _pair_of_dialogues(chosen, rejected, ("chosen", "rejected"), _numbers(row))


def _whole_dialogues(row: fields.Fields) -> PreferencePair:
    chosen, rejected = (
        dialogues.from_turns(fields.present(row, name), name, ends_with="assistant")
        for name in ("chosen", "rejected")
    )
    return _pair_of_dialogues(chosen, rejected, ("chosen", "rejected"), _numbers(row))


def _prompt(value: Any, field: str) -> Conversation:
    """Parses a prompt given as text, templated text, or a list of turns."""
    if isinstance(value, str):
        return dialogues.from_template(str(value), field, ends_with="user")
    return dialogues.from_turns(value, field, ends_with="user")


def _response(value: Any, field: str, prompt: Conversation) -> str:
    """Parses a response: a text, a turn, or turns that may repeat the prompt."""
    if isinstance(value, str):
        return str(value).removesuffix("\n<extra_id_1>")
    if not _is_dialogue(value):
        return dialogues.answer(value, field)
    dialogue = dialogues.from_turns(value, field, ends_with="assistant")
    if dialogue.prompt != prompt:
        raise fields.Reject(field, "prompts differ")
    return dialogues.trained_text(dialogue.messages[-1], field)


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1


def _prompt_and(
    chosen_name: str,
    rejected_name: str,
    read_prompt: Callable[[fields.Fields], Conversation] | str = "prompt",
):
    """Makes a parser of rows with a prompt, two responses and perhaps rewards."""
    names = (chosen_name, rejected_name)

    def parse(row: fields.Fields) -> PreferencePair:
        if isinstance(read_prompt, str):
            prompt = _prompt(fields.present(row, read_prompt), read_prompt)
        else:
            prompt = read_prompt(row)
        chosen, rejected = (
            _response(fields.present(row, name), name, prompt) for name in names
        )
        return _pair(prompt, chosen, rejected, names, _numbers(row))

    return parse


def _trl(row: fields.Fields) -> PreferencePair:
    """Parses TRL's rows, and those of open-instruct.

    Open-instruct's responses are whole dialogues, and the prompt beside them, if there
    is any, is the text of one of their user turns.
    """
    prompt, names = row.get("prompt"), ("chosen", "rejected")
    if isinstance(prompt, list) and prompt:
        return _with_prompt(row)
    if not all(_is_dialogue(row.get(name)) for name in names):
        return _with_prompt(row)
    pair = _whole_dialogues(row)
    if prompt and prompt not in _user_texts(pair.prompt):
        return _with_prompt(row)
    return pair


_with_prompt = _prompt_and("chosen", "rejected")


def _user_texts(prompt: Conversation) -> list[str]:
    return [turn.content for turn in prompt.messages if turn.role == "user"]


def _reward_bench(row: fields.Fields) -> PreferencePair:
    """Parses RewardBench's rows: texts as they are, whatever they hold."""
    prompt = Conversation.of(fields.prompt(row, "prompt"))
    return _compared(prompt, row, ("chosen", "rejected"), 1)


def _nemo_rl(row: fields.Fields) -> PreferencePair:
    """Parses NeMo-RL's rows: two completions, the better one of the lower rank."""
    prompt = dialogues.from_turns(
        fields.present(row, "context"), "context", ends_with="user"
    )
    completions = fields.present(row, "completions")
    if not isinstance(completions, list) or not all(
        isinstance(item, dict) for item in completions
    ):
        raise fields.Reject("completions", "wrong type")
    if len(completions) != 2:
        raise fields.Reject("completions", "not two completions")
    read = [
        _completion(item, f"completions[{index}]")
        for index, item in enumerate(completions)
    ]
    (first, second) = (rank for rank, _, _ in read)
    if first == second:
        raise fields.Reject("completions", "tie")
    better = 0 if first < second else 1
    (_, chosen, reward), (_, rejected, other) = read[better], read[1 - better]
    names = f"completions[{better}]", f"completions[{1 - better}]"
    if (reward is None) != (other is None):
        missing = names[0 if reward is None else 1]
        raise fields.Reject(f"{missing}.reward", "missing field")
    numbers = {"chosen_reward": reward, "rejected_reward": other}
    return _pair(prompt, chosen, rejected, names, numbers | _margin(row))


def _completion(item: fields.Fields, field: str) -> tuple[int, str, float | None]:
    """Returns rank, text and reward of a completion."""
    try:
        rank = fields.integer(item, "rank")
        text = dialogues.answer(fields.present(item, "completion"), "completion")
        return rank, text, fields.optional_number(item, "reward", "reward")
    except fields.Reject as reject:
        raise fields.Reject(f"{field}.{reject.field}", reject.reason) from None


def _helpsteer(row: fields.Fields) -> PreferencePair:
    """Parses HelpSteer2's comparisons; below 0 the first response is preferred."""
    prompt = dialogues.from_template(
        fields.prompt(row, "prompt"), "prompt", ends_with="user"
    )
    names = ("response_1", "response_2")
    return _by_strength(prompt, row, names, "preference_strength")


def _helpsteer3(row: fields.Fields) -> PreferencePair:
    """Parses HelpSteer3's comparisons, after a dialogue."""
    prompt = dialogues.from_turns(
        fields.present(row, "context"), "context", ends_with="user"
    )
    return _by_strength(prompt, row, ("response1", "response2"), "overall_preference")


def _by_strength(
    prompt: Conversation, row: fields.Fields, names: tuple[str, str], name: str
) -> PreferencePair:
    """Makes a pair by strength of preference: below 0 for the first response."""
    strength = fields.choice(row, name, tuple(range(-3, 4)))
    for response in names:
        fields.response(row, response)
    if strength == 0:
        raise fields.Reject(name, "tie")
    numbers = {"margin": float(abs(strength))}
    return _compared(prompt, row, names, 1 if strength < 0 else 2, numbers)


def _numbers(row: fields.Fields) -> dict[str, float | None]:
    """Returns rewards and margin, where there are any."""
    names = ("chosen_reward", "rejected_reward")
    found = {name: fields.optional_number(row, name, "reward") for name in names}
    missing = [name for name, value in found.items() if value is None]
    if len(missing) == 1:
        raise fields.Reject(missing[0], "missing field")
    return found | _margin(row)


def _margin(row: fields.Fields) -> dict[str, float | None]:
    margin = fields.optional_number(row, "margin", "margin")
    if margin is not None and margin < 0:
        raise fields.Reject("margin", "margin below 0")
    return {"margin": margin}


def _compared(
    prompt: Conversation,
    row: fields.Fields,
    names: tuple[str, str],
    preferred: int,
    numbers: _Numbers = _NONE,
) -> PreferencePair:
    """Makes a pair of two responses of which number `preferred` (1 or 2) is better."""
    chosen, rejected = names if preferred == 1 else names[::-1]
    responses = fields.text(row, chosen), fields.text(row, rejected)
    return _pair(prompt, *responses, (chosen, rejected), numbers)


def _llmbar(row: fields.Fields) -> PreferencePair:
    prompt = Conversation.of(fields.prompt(row, "input"))
    preferred = fields.choice(row, "label", (1, 2))
    return _compared(prompt, row, ("output_1", "output_2"), preferred)


def _pandalm(row: fields.Fields) -> PreferencePair:
    """Makes a pair as two of three annotators see it; 0 stands for a tie."""
    prompt = dialogues.from_instruction(row)
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
    return _compared(prompt, row, names, preferred)


def _judge_prompts(row: fields.Fields) -> PreferencePair:
    """Parses HHH alignment pairs: responses written into prompts for a judge."""
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


_VALUES = ("chosen_reward", "rejected_reward", "margin")

FORMATS = (
    Format(
        "sharegpt_ranking",
        ("conversations", "chosen", "rejected"),
        _prompt_and("chosen", "rejected", "conversations"),
        honours=_VALUES,
    ),
    Format(
        "nemo_aligner",
        ("prompt", "chosen_response", "rejected_response"),
        _prompt_and("chosen_response", "rejected_response"),
        honours=_VALUES,
    ),
    Format("nemo_rl", ("context", "completions"), _nemo_rl, honours=("margin",)),
    Format(
        "helpsteer_preference",
        ("prompt", "response_1", "response_2", "preference_strength"),
        _helpsteer,
    ),
    Format(
        "helpsteer3",
        ("context", "response1", "response2", "overall_preference"),
        _helpsteer3,
    ),
    Format(
        "reward_bench",
        ("prompt", "chosen", "rejected", "subset", "id"),
        _reward_bench,
        matches=lambda row: isinstance(row["prompt"], str),
    ),
    Format(
        "prompt_chosen_rejected",
        ("prompt", "chosen", "rejected"),
        _trl,
        honours=_VALUES,
    ),
    Format(
        "alpaca_ranking",
        ("instruction", "chosen", "rejected"),
        _prompt_and("chosen", "rejected", dialogues.from_instruction),
        honours=("input", "history", *_VALUES),
    ),
    *(
        Format(
            f"{name}_chosen_rejected",
            (name, "chosen", "rejected"),
            _prompt_and("chosen", "rejected", name),
            honours=_VALUES,
        )
        for name in ("question", "input")
    ),
    Format(
        "whole_dialogues",
        ("chosen", "rejected"),
        _whole_dialogues,
        matches=lambda row: isinstance(row["chosen"], list),
        honours=_VALUES,
    ),
    Format(
        "hh",
        ("chosen", "rejected"),
        _hh,
        matches=lambda row: str(row["chosen"]).lstrip().startswith("Human:"),
        honours=_VALUES,
    ),
    Format("llmbar", ("input", "output_1", "output_2"), _llmbar, honours=("label",)),
    Format(
        "pandalm",
        ("instruction", "response1", "response2"),
        _pandalm,
        honours=("input", "history"),
    ),
    Format(
        "judge_prompts", ("chosen_instruction", "rejected_instruction"), _judge_prompts
    ),
)
