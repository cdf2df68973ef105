"""A checkpoint as a model of EleutherAI's lm-evaluation-harness.

`register()` makes it known as "nemojax": the harness looks for no plug-ins. The command
`nemojax-lm-eval` does that, and is the harness's own otherwise. Needs the extra `eval`.
"""

# An extra that our own checks do without.
# pyright: reportMissingImports=false
import importlib
import re
import secrets
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import model_registry
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from nemojax.data.records import Conversation, Message
from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.engine import paged
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import MAX_STOP_IDS, Sampling
from nemojax.inference.text import generation
from nemojax.inference.text.generation import TextRequest
from nemojax.inference.text.output_text import TextDelta
from nemojax.interop import loading
from nemojax.io.progress import Progress
from nemojax.parallel import mesh as meshes
from nemojax.parallel.layout import Layout

NAME = "nemojax"
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")
# Of several the first counts, as with other models of the harness.
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def register() -> None:
    """Makes the model known to the harness by name."""
    importlib.import_module("lm_eval.models")  # a registry with one is taken for full
    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__name__}:NemojaxLM")


def main() -> None:
    """Runs the harness's command with one more model."""
    from lm_eval.__main__ import cli_evaluate

    register()
    cli_evaluate()


class NemojaxLM(TemplateLM):
    """Log-probs and greedy or sampled answers of a checkpoint."""

    def __init__(
        self,
        checkpoint: str = "",
        *,
        pretrained: str = "",
        template: str = loading.AUTO,
        dtype: str | None = None,
        quantize: str | None = None,
        max_length: int = 2048,
        max_gen_toks: int = 256,
        batch_size: int | str = 16,
        max_batch_size: int | None = None,
        cache_tokens: int = 0,
        data: int = 1,
        tensor: int = 1,
        device: str | None = None,
    ):
        """Loads a model.

        Args:
          checkpoint: a model folder or a Hugging Face checkpoint.
          pretrained: checkpoint, as other models of the harness call it.
          template: see `interop.loading.load`.
          dtype: dtype of the computation; default: the checkpoint's.
          quantize: "int8" or "fp8" weights; default: as they are.
          max_length: tokens of a text that is scored, or of a prompt and its answer.
          max_gen_toks: tokens of an answer where the task does not say.
          batch_size: texts at a time; "auto" is 16.
          max_batch_size: ignored.
          device: ignored: jax chooses.
          cache_tokens: see `inference.engine.config.serving`.
          data: replicas, an axis of the mesh.
          tensor: devices that share a layer, an axis of the mesh.

        Raises:
          ValueError: there is no such model.
        """
        super().__init__()
        del max_batch_size, device
        slots = 16 if str(batch_size).startswith("auto") else int(batch_size)
        mesh = meshes.make_mesh(data=int(data), tensor=int(tensor))
        found = loading.load(
            checkpoint or pretrained,
            Layout(mesh),
            template=template,
            dtype=dtype,
            quantize=quantize,
        )
        self._model = paged.to_engine_params(found, donate=True)
        # One token more than is scored: the engine always generates.
        config = configs.serving(
            -(-slots // int(data)) * int(data),
            int(max_length) + 1,
            int(cache_tokens),
            data=int(data),
        )
        self._engine = Engine(self._model.config, self._model.params, mesh, config)
        self.max_length, self.max_gen_toks = int(max_length), int(max_gen_toks)
        self._chats: dict[str, list[int]] = {}
        nonce = secrets.token_hex(8)
        self._open, self._close = f"\ue000{nonce}:", f":{nonce}\ue000"
        self._chat = re.compile(rf"\ue000{nonce}:(\d+):.*?:{nonce}\ue000", re.DOTALL)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._model.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """Context token for an empty prompt: BOS, else EOS."""
        tokenizer = self._model.tokenizer
        try:
            return tokenizer.bos_id
        except ValueError:
            return tokenizer.eos_id

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer in the harness's caches."""
        return f"{NAME}-{self._model.tokenizer.fingerprint}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Returns which template it is, for the harness's records."""
        return repr(self._model.template) if chat_template else ""

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Renders a conversation as text whose control tokens `tok_encode` knows again.

        Text is never a control token here, so the tokens are kept beside the text.
        """
        template = self._model.template
        if template is None:
            raise ValueError(f"{self._model.name!r} has no chat template")
        turns: Any = [(turn["role"], turn["content"]) for turn in chat_history]
        messages = [Message(*turn) for turn in turns]
        begun = "" if add_generation_prompt else messages.pop().content
        tokenizer = self._model.tokenizer
        tokens = template.encode_prompt(tokenizer, Conversation(tuple(messages)))
        tokens += tokenizer.encode_inside(begun)
        key = str(len(self._chats))
        self._chats[key] = tokens
        shown = "".join(tokenizer.piece_text(token) for token in tokens)
        return f"{self._open}{key}:{shown}{self._close}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Encodes a text, in which the output of `apply_chat_template` may stand."""
        del kwargs
        tokenizer = self._model.tokenizer
        begin, *chats = self._chat.split(string)
        tokens = []
        if begin or not chats:
            prefix = () if add_special_tokens is False else tokenizer.prefix
            tokens = [*prefix, *tokenizer.encode(begin)]
        for key, text in zip(chats[::2], chats[1::2], strict=True):
            tokens += self._chats[key]
            tokens += tokenizer.encode_inside(text) if text else []
        return tokens

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Any],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        """Returns (sum of log-probs, whether greedy) of each continuation.

        `requests` are (key of the cache, tokens before, tokens that are scored).
        """
        del kwargs
        how = Sampling(temperature=0, max_tokens=1, top=1, prompt_log_probs=True)
        prompts = [
            # The harness moves a context of spaces to the continuation.
            ((context or [self.prefix_token_id]) + continuation)[-self.max_length :]
            for _, context, continuation in requests
        ]
        found: list[tuple[float, bool]] = [(0.0, True)] * len(requests)

        def take(place: int, delta: TextDelta) -> None:
            assert delta.prompt is not None
            key, _, continuation = requests[place]
            start = len(delta.prompt.tokens) - len(continuation)
            if start < 0:
                raise ValueError(
                    f"a continuation of {len(continuation)} tokens and one before it "
                    f"do not fit into max_length={self.max_length}"
                )
            greedy = all(
                top[0][0] == token
                for token, top in zip(
                    delta.prompt.tokens[start:], delta.prompt.top[start:], strict=True
                )
            )
            found[place] = sum(delta.prompt.log_probs[start:]), greedy
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[place])

        self._complete([TextRequest(p, how) for p in prompts], take, disable_tqdm)
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns log-probs of whole texts, in windows that count each token once."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0], add_special_tokens=False)
            for window in get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length - 1,
                context_len=1,
            ):
                windows.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        sums = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (value, _) in zip(owners, scored, strict=True):
            sums[owner] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[str]:
        """Generates up to a stop string of the task, or the end of the text."""
        asked = [
            self._generation(request.args[0], request.args[1], place)
            for place, request in enumerate(requests)
        ]
        found = [""] * len(requests)

        def take(place: int, delta: TextDelta) -> None:
            found[place] = delta.text
            request = requests[place].args
            self.cache_hook.add_partial("generate_until", request, delta.text)

        self._complete(asked, take, disable_tqdm)
        return found

    def _generation(
        self, context: str, settings: dict[str, Any], place: int
    ) -> TextRequest:
        """Makes a request from a task's context and generation settings.

        Repeats of a request are drawn apart: its place counts up from the task's seed.
        """
        settings = {name: v for name, v in settings.items() if v is not None}
        stops = _stop_strings(settings.pop("until", ()))
        limits = [settings.pop(name) for name in _LIMITS if name in settings]
        max_tokens = int(next(iter(limits), self.max_gen_toks))
        values = {n: settings.pop(n) for n in _SAMPLING if n in settings}
        values["seed"] = values.get("seed", 0) + place
        if values.get("top_k") == -1:  # all, as in vLLM
            values["top_k"] = 0
        if not settings.pop("do_sample", bool(values.get("temperature", 0))):
            values["temperature"] = 0.0
        if settings.get("num_beams") == 1:
            del settings["num_beams"]
        if settings:
            raise UserError(f"generation settings that are not supported: {settings}")
        chat = self._chat.search(context) is not None
        model = self._model
        stop_ids = model.turn_stop_ids if chat else model.stop_ids
        how = Sampling(
            max_tokens=max_tokens, stop_ids=stop_ids[:MAX_STOP_IDS], **values
        )
        room = self._engine.room - max_tokens
        if room < 1:
            raise ValueError(
                f"answers of {max_tokens} tokens leave no room for a prompt in "
                f"max_length={self.max_length}"
            )
        closing = model.turn_closing if chat else ""
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        return TextRequest(tokens[-room:], how, stops, closing)

    def _complete(
        self, requests: Sequence[TextRequest], take: Any, quiet: bool
    ) -> None:
        """Calls `take(index, whole output)` for each request as it ends."""
        progress = Progress("answers")
        found = generation.complete(self._engine, self._model, requests)
        for done, (index, whole) in enumerate(found, 1):
            take(index, whole)
            if not quiet:
                progress.show(done, len(requests))


def _stop_strings(until: Any) -> tuple[str, ...]:
    """Returns the stop strings of a task, which names one or a list."""
    found = (until,) if isinstance(until, str) else until
    if not isinstance(found, list | tuple) or not all(
        isinstance(s, str) for s in found
    ):
        raise UserError(f"until is {until!r}: give a text or a list of texts")
    return tuple(stop for stop in found if stop)
