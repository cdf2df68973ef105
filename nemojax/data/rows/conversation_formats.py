"""Published layouts of supervised fine-tuning rows, each read to a `Conversation`."""

from nemojax.data.records import Conversation
from nemojax.data.rows import dialogues
from nemojax.io import fields
from nemojax.io.fields import Format


def _prompt_and(response_name: str, prompt_name: str = "prompt"):
    """Makes a parser of rows with one text for the prompt, one for the response."""

    def parse(row: fields.Fields) -> Conversation:
        return Conversation.of(
            fields.prompt(row, prompt_name), fields.response(row, response_name)
        )

    return parse


def _prompt_completion(row: fields.Fields) -> Conversation:
    """Parses TRL's rows: texts as they are, or lists of turns."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list):
        start = dialogues.from_turns(prompt, "prompt", ends_with="user")
    else:
        start = Conversation.of(fields.prompt(row, "prompt"))
    if isinstance(completion, list):
        return start.with_response(dialogues.answer(completion, "completion"))
    return start.with_response(fields.response(row, "completion"))


def _alpaca(row: fields.Fields) -> Conversation:
    prompt = fields.prompt(row, "instruction")
    context = fields.optional_text(row, "input")
    if context.strip():
        prompt = f"{prompt}\n\n{context}"
    return Conversation.of(
        prompt, fields.response(row, "output"), fields.optional_text(row, "system")
    )


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


def _reject_tools(row: fields.Fields) -> None:
    """Skips rows that offer tools, for which a conversation has no place.

    An answer without a call depends on the tools offered, too.
    """
    if row.get("tools") not in (None, "", "[]", []):
        raise fields.Reject("tools", "tool calls")


def _chat(row: fields.Fields) -> Conversation:
    """Parses ShareGPT and the chat rows of NeMo, which share the list of turns.

    In NeMo's rows of type VALUE_TO_TEXT the labels of assistant turns condition them;
    where `type` is null they are ignored.
    """
    _reject_tools(row)
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
        system=fields.optional_text(row, "system"),
        labels=kind == "VALUE_TO_TEXT",
    )


def _messages(row: fields.Fields) -> Conversation:
    _reject_tools(row)
    turns = fields.present(row, "messages")
    return dialogues.from_turns(turns, "messages", ends_with="assistant")


# The first format that recognises a row is its format, so one whose fields are a
# subset of another's comes later.
FORMATS = (
    Format("nemo_chat", ("conversations", "mask"), _chat),
    Format("sharegpt", ("conversations",), _chat),
    Format("messages", ("messages",), _messages),
    Format("mbpp", ("text", "code", "test_list"), _mbpp),
    Format(
        "openmathinstruct",
        ("problem", "generated_solution"),
        _prompt_and("generated_solution", "problem"),
    ),
    Format("math", ("problem", "solution"), _prompt_and("solution", "problem")),
    Format("alpaca", ("instruction", "output"), _alpaca),
    Format("gsm8k", ("question", "answer"), _prompt_and("answer", "question")),
    # Rows for KTO say which answers are good; the others must not be learned.
    Format(
        "prompt_response",
        ("prompt", "response"),
        _prompt_and("response"),
        matches=lambda row: row.get("preference") not in ("chosen", "rejected"),
    ),
    Format(
        "prompt_completion",
        ("prompt", "completion"),
        _prompt_completion,
        matches=lambda row: str(row.get("label")) not in ("True", "False"),
    ),
    Format("input_output", ("input", "output"), _prompt_and("output", "input")),
)
