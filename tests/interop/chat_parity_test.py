"""Chats as tokens: what `apply_chat_template` of transformers gives, and masks."""

import random

import pytest

from nemojax.data.records import Conversation, Message
from nemojax.errors import UserError
from nemojax.interop import loading
from tests.data.text.chat_templates import OPENED, TEMPLATES

transformers = pytest.importorskip("transformers")

from tests.data.text import chat_tokenizers

# A kind, and the fields of tokenizer_config.json.
LLAMA = "LlamaTokenizerFast"
TOKENIZERS = {
    **{kind: (kind, {}) for kind in chat_tokenizers.KINDS},
    "LlamaTokenizer": ("pieces, prepend", {"tokenizer_class": "LlamaTokenizer"}),
    "legacy": ("pieces, prepend", {"tokenizer_class": LLAMA, "legacy": True}),
    "not legacy": ("pieces, always", {"tokenizer_class": LLAMA, "legacy": False}),
}
PIECES = (
    *"abcé你\U0001f600\u00a0\u0301ﬁ \n\t.,:]#0",
    *("the user", "answers", "  ", "    ", "\n\n", "\r\n", " \n ", "\u2581", "###"),
    *("<think>", "</think>", "<think>\nwhy\n</think>\n\n", "kubectl", "[/INST]", "one"),
    *("USER: ", "\nASSISTANT:", "detailed thinking on", "{{ x }}", "\\n", "</", "two"),
)


def said(draw, least=1):
    return "".join(draw.choices(PIECES, k=draw.randint(least, 6)))


def dialogue(seed):
    """Some turns that end with an answer, maybe after a system text, maybe empty."""
    draw = random.Random(seed)
    turns = [("system", said(draw, least=0))] * draw.randint(0, 1)
    for _ in range(draw.randint(1, 3)):
        turns += [("user", said(draw)), ("assistant", said(draw))]
    return [{"role": role, "content": text} for role, text in turns]


@pytest.fixture(scope="module", params=TOKENIZERS)
def both(request, tmp_path_factory):
    """Our tokenizer and theirs, of the same files."""
    path = tmp_path_factory.mktemp("tokenizer")
    kind, config = TOKENIZERS[request.param]
    chat_tokenizers.write(path, kind, chat_template=TEMPLATES["deepseek"], **config)
    ours = loading.load_tokenizer(path)
    return path, ours, transformers.AutoTokenizer.from_pretrained(path)


class Peer:
    """What transformers makes of a dialogue with a template."""

    def __init__(self, tokenizer, source, messages):
        self._tokenizer, self._source = tokenizer, source
        self.messages = messages
        self.whole = self.tokens(messages)

    def tokens(self, messages, **options):
        return self._tokenizer.apply_chat_template(
            messages, chat_template=self._source, return_dict=False, **options
        )

    def prompt(self, turn):
        return self.tokens(self.messages[:turn], add_generation_prompt=True)

    def mask(self, turns, ends):
        """The mask of answers, None where no token begins where an answer begins.

        An answer goes to the first of the tokens `ends`, or else to where its own text
        ends.
        """
        mask = [0] * len(self.whole)
        for turn in turns:
            prompt = self.prompt(turn)
            if self.whole[: len(prompt)] != prompt:
                return None
        return mask


@pytest.mark.parametrize("name", TEMPLATES)
def test_chats_have_the_tokens_of_transformers(both, name, count=50):
    pass
