"""Talking in the terminal."""

import subprocess
import sys

import pytest

from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text.chat_session import ChatSession
from nemojax.interop import loading


def sample(checkpoint, *flags, **how):
    return subprocess.run(
        [
            sys.executable,
            *("-m", "experiments.sample", f"--model={checkpoint}"),
            *("--length=128", "--max_tokens=20", "--seed=1", *flags),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        **how,
    )


@pytest.fixture(scope="module")
def model(checkpoint):
    return loading.load(checkpoint)


def test_a_prompt_is_answered_and_a_talk_goes_on(checkpoint, model):
    how = Sampling(temperature=0.7, top_p=0.95, seed=1, max_tokens=20)
    talk = ChatSession(model, how, max_length=128)
    answers = ["".join(talk.ask(text)) for text in ("Hi", "Why?")]
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2
    once = sample(checkpoint, "--prompt=Hi")
    assert once.returncode == 0, once.stderr
    assert once.stdout == answers[0] + "\n"
    assert "20 tokens in " in once.stderr
    several = sample(checkpoint, input="Hi\nWhy?\n/new\nHi\n\n")
    first, rest = several.stdout.removeprefix("> ").split("\n> ", 1)
    assert first == answers[0]
    assert rest.startswith(answers[1])


def test_an_answer_that_is_cut_off_is_what_was_said(model):
    talk = ChatSession(model, Sampling(seed=1, max_tokens=60), max_length=128)
    answer = talk.ask("Hi")
    begun = next(text for text in answer if text)
    answer.close()
    assert talk.turns[-1].content.endswith(begun)
    assert list(talk.ask("go on"))


def test_without_a_template_a_text_goes_on(checkpoint):
    done = sample(checkpoint, "--template=none", "--prompt=-", input="the teacher")
    assert done.returncode == 0 and len(done.stdout) > 5


def test_what_has_no_room_is_said(checkpoint, model):
    done = sample(checkpoint, "--prompt=" + "a" * 300)
    assert done.returncode == 2
    assert "leaves no room for an answer" in done.stderr
    talk = ChatSession(model, Sampling(max_tokens=8), max_length=64)
    with pytest.raises(ValueError, match="the context has 64"):
        list(talk.ask("a" * 80))
