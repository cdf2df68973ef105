"""Reads the command line of a script, explains what is wrong with it, and prints help.

All that a script says of its flags goes through here instead of through absl, whose
help has the flags of every library and whose errors come with a page of usage.
"""

import difflib
import sys
import textwrap
from collections.abc import Sequence

from absl import flags

from nemojax.errors import UserError

FLAGS = flags.FLAGS
_HELP = {
    f"{dashes}{name}" for dashes in ("-", "--") for name in ("h", "help", "helpfull")
}
_WIDTH, _COLUMN = 100, 34
_REQUIRED = "other than None"  # of absl's message
# Names that others, and earlier versions, have for a flag.
_OTHER_NAMES = {
    "learning_rate.peak": "lr learning_rate peak_lr optimizer.lr optimizer.peak_lr "
    "optimizer.learning_rate schedule.peak_lr",
    "learning_rate.final_fraction": "optimizer.final_fraction schedule.final_lr min_lr",
    "learning_rate.warmup": "warmup_steps optimizer.warmup_steps "
    "schedule.warmup_samples",
    "length": "max_length max_seq_length max_model_len seq_length sequence_length "
    "context_length",
    "slots": "rows max_num_seqs",
    "parallel.rows": "rows micro_batch_size per_device_train_batch_size",
    "batch": "rows batch_size global_batch global_batch_size schedule.batch",
    "epochs": "num_epochs num_train_epochs",
    "steps": "max_steps num_steps",
    "max_tokens": "max_new_tokens",
    "model": "checkpoint from start model_path model_name_or_path",
    "data": "dataset train_data",
    "template": "chat_template",
    "out": "to output output_dir",
    "workdir": "out output output_dir",
    "held_out_share": "validation_share",
    "workers": "processes",
    "parallel.data": "dp data_parallel_size",
    "parallel.pipe": "pp pipeline_parallel_size",
    "parallel.tensor": "tp tensor_parallel_size",
    "parallel.pipeline": "parallel.schedule",
}
# Flags by what they are for; the others are the script's own, or of a group.
_TOPICS = {
    "Files": (
        *("model", "data", "held_out", "held_out_share", "replay", "replay_share"),
        *("rewards", "tokenizer", "template", "blend", "start", "workdir", "out"),
        *("from_hf", "from_nemo", "to_hf", "verify", "max_bad_fraction", "json"),
        "tensorboard",
    ),
    "Processes": ("coordinator_address", "num_processes", "process_id"),
}


def parse(argv: Sequence[str], doc: str, arguments: bool = False) -> list[str]:
    """Reads the flags, or prints help and exits.

    Args:
      argv: the command line, the script's name included.
      doc: says what the script does; stands above the help.
      arguments: whether the script takes anything but flags.

    Returns:
      The arguments that are no flags, behind the script's name.

    Raises:
      UserError: a flag that there is not, a value that it cannot have, or a flag or an
        argument too few or too many.
    """
    if _HELP & set(argv[1:]):
        print(help_text(doc), flush=True)
        sys.exit(0)
    try:
        rest = FLAGS(list(argv))
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname)) from error
    except flags.Error as error:
        text = str(error)
        raise UserError(
            _missing() if _REQUIRED in text else _bad_value(text)
        ) from error
    require(*(flag.name for flag in own_flags() if _is_required(flag)))
    if len(rest) > 1 and not arguments:
        raise UserError(f"unexpected argument {rest[1]!r}: see --help")
    return rest


def require(*names: str) -> None:
    """Demands a value, which is not empty, of some flags.

    Raises:
      UserError: some have no value.
    """
    if missing := [name for name in names if not FLAGS[name].value]:
        raise UserError(_wanted(missing))


def own_flags() -> list[flags.Flag]:
    """Returns the flags that the script and this project define, as they came."""
    return [
        flag
        for module, found in FLAGS.flags_by_module_dict().items()
        if module == sys.argv[0] or module.startswith(("nemojax.", "experiments."))
        for flag in found
    ]


def help_text(doc: str) -> str:
    """Returns what a script does and its flags, a line each, by topic."""
    topic_of = {name: topic for topic, names in _TOPICS.items() for name in names}
    topics: dict[str, list[str]] = {"Files": [], "Settings": []}
    for flag in own_flags():
        group, dot, _ = flag.name.partition(".")
        topic = f"--{group}" if dot else topic_of.get(flag.name, "Settings")
        topics.setdefault(topic, []).append(_help_line(flag))
    if "Processes" in topics:
        topics["Processes"] = topics.pop("Processes")  # comes last
    lines = [doc.strip()]
    for topic, found in topics.items():
        lines += ["", f"{topic}:", *found] if found else []
    return "\n".join(lines)


def _help_line(flag: flags.Flag) -> str:
    text = _help(flag)
    if flag.value is None and _is_required(flag):
        start, text = f"--{flag.name}=...", f"required: {text}"
    else:
        start = f"--{flag.name}={_shown(flag)}"
    after = " " * (_COLUMN + 4)
    return textwrap.fill(
        f"  {start:<{_COLUMN}}  {text}", _WIDTH, subsequent_indent=after
    )


def _help(flag: flags.Flag) -> str:
    """Returns a flag's help, with all of its values where they are named."""
    choices = getattr(flag.parser, "enum_values", None)
    text = str(flag.help)
    if choices:
        # absl writes them in front, without a space to break the line at.
        text = text.removeprefix(f"<{'|'.join(choices)}>: ")
        text = f"{text} ({', '.join(choices)})"
    return " ".join(text.split())


def _shown(flag: flags.Flag) -> str:
    value = flag.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _is_required(flag: flags.Flag) -> bool:
    return any(_REQUIRED in validator.message for validator in flag.validators)


def _missing() -> str:
    """Says which required flags are missing."""
    return _wanted([f.name for f in own_flags() if f.value is None and _is_required(f)])


def _wanted(names: Sequence[str]) -> str:
    return "; ".join(
        f"name the {name}: --{name}=... ({_help(FLAGS[name])})" for name in names
    )


def _unknown(name: str) -> str:
    """Says that there is no such flag, and which one is near."""
    known = [flag.name for flag in own_flags()]
    bare = name.removeprefix("no")
    meant = [f for f, names in _OTHER_NAMES.items() if name in names.split()]
    meant = [other for other in meant if other in known]
    meant += [other for other in known if other.rpartition(".")[2] in (name, bare)]
    meant += difflib.get_close_matches(name, known, 1, 0.5)
    if not meant:
        return f"there is no flag --{name}: --help lists them"
    word = _help(FLAGS[meant[0]])
    return f"there is no flag --{name}: --{meant[0]} ({word}) may be meant"


def _bad_value(message: str) -> str:
    """Says what a flag takes, behind what absl says of its value."""
    message = message.removeprefix("flag ")
    name = message.removeprefix("--").partition("=")[0]
    if name not in FLAGS:
        return message
    if choices := getattr(FLAGS[name].parser, "enum_values", None):
        return f"{message.partition(': ')[0]} is none of {', '.join(choices)}"
    return f"{message.rstrip('.')}; --{name}: {_help(FLAGS[name])}"
