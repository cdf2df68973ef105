"""Published layouts of supervised fine-tuning rows, each read to a `Conversation`."""

from nemojax.data.records import Conversation
from nemojax.data.rows import dialogues
from nemojax.data.rows.row_format import Format
from nemojax.io import fields


def _prompt_and(response_name: str, prompt_name: str = "prompt"):
    """Makes a parser of a prompt and a response: texts as they are, or turns."""

    def parse(row: fields.Fields) -> Conversation:
        prompt, response = row.get(prompt_name), row.get(response_name)
        if isinstance(prompt, list):
            start = dialogues.from_turns(prompt, prompt_name, ends_with="user")
        else:
            start = Conversation.of(fields.prompt(row, prompt_name))
        if isinstance(response, list):
            return start.with_response(dialogues.answer(response, response_name))
        return start.with_response(fields.response(row, response_name))

    return parse


def _alpaca(row: fields.Fields) -> Conversation:
    prompt = dialogues.from_instruction(row)
    return prompt.with_response(fields.response(row, "output"))


def _mbpp(row: fields.Fields) -> Conversation:
    tests = [
        fields.optional_text(row, "test_setup_code"),
        *fields.texts(row, "test_list"),
    ]
    listed = "\n".join(test for test in tests if test)
    prompt = f"{fields.prompt(row, 'text')}\nThese tests must pass:\n{listed}"
    # The published rows were written on Windows, the tests will not be run there.
    return Conversation.of(
        prompt.replace("\r\n", "\n"), fields.response(row, "code").replace("\r\n", "\n")
    )


def _chat(row: fields.Fields) -> Conversation:
    """Parses ShareGPT and the chat rows of NeMo, which share the list of turns.

    In NeMo's rows of type VALUE_TO_TEXT the labels of assistant turns condition them;
    where `type` is null they are ignored.
    """
    kind = fields.optional_text(row, "type") if "mask" in row else ""
    if kind not in ("", "VALUE_TO_TEXT"):
        # TEXT_TO_VALUE trains the label; a reward model does that here.
        raise fields.Reject("type", "neither VALUE_TO_TEXT nor null")
    mask = fields.optional_text(row, "mask")
    if mask and "user" not in (role.strip().lower() for role in mask.split(",")):
        raise fields.Reject("mask", "user turns not masked")
    return dialogues.from_turns(
        fields.present(row, "conversations"),
        "conversations",
        ends_with="assistant",
        labels=kind == "VALUE_TO_TEXT" if "mask" in row else None,
    )


def _messages(row: fields.Fields) -> Conversation:
    turns = fields.present(row, "messages")
    return dialogues.from_turns(turns, "messages", ends_with="assistant")


# The first format that recognises a row is its format, so one whose fields are a
# subset of another's comes later.
FORMATS = (
    Format("nemo_chat", ("conversations", "mask"), _chat),
    Format("sharegpt", ("conversations",), _chat, honours=("mask",)),
    Format("messages", ("messages",), _messages),
    Format("mbpp", ("text", "code", "test_list"), _mbpp),
    Format(
        "openmathinstruct",
        ("problem", "generated_solution"),
        _prompt_and("generated_solution", "problem"),
    ),
    Format("math", ("problem", "solution"), _prompt_and("solution", "problem")),
    Format("alpaca", ("instruction", "output"), _alpaca, honours=("input", "history")),
    Format("gsm8k", ("question", "answer"), _prompt_and("answer", "question")),
    Format("prompt_response", ("prompt", "response"), _prompt_and("response")),
    Format("prompt_completion", ("prompt", "completion"), _prompt_and("completion")),
    Format("input_output", ("input", "output"), _prompt_and("output", "input")),
)
