"""Schemas of requests; unknown fields are refused by name.

Fields are those of OpenAI's API, and of vLLM's where OpenAI has none. Types are taken
strictly: "5" is no number, and NaN is none either. What cannot be done is refused, what
says nothing about the answer (`user`, `metadata`, a null) is taken and ignored.

The first fault of a list is enough: a body may hold a million.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

MAX_PROMPTS = 256
MAX_N = 128
_MAX_PARTS = 10_000
# Fields that are known only with the values that change nothing.
UNSUPPORTED = frozenset(
    ("frequency_penalty", "presence_penalty", "logit_bias", "suffix", "tools")
)
_TokenId = Annotated[int, Field(ge=0, lt=2**31)]
_TokenIds = Annotated[list[_TokenId], Field(fail_fast=True)]
_Tokens = Annotated[_TokenIds, Field(min_length=1)]
_Stop = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class NotSupported(ValueError):
    """Says that a request has a field that is not known; its argument is the name."""


class Conflict(ValueError):
    """Says that a field and another do not go together: its name, and what it needs."""

    def __str__(self) -> str:
        """Returns a sentence."""
        return " ".join(self.args)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, values: Any) -> Any:
        """Leaves out unknown fields that say nothing; refuses the first that does."""
        if not isinstance(values, dict):
            return values
        known = cls.model_fields
        said = (n for n in values if n not in known and values[n] not in (None, []))
        if (bad := next(said, None)) is not None:
            raise NotSupported(bad)
        return {name: values[name] for name in known if name in values}


class StreamOptions(_Strict):
    """Options of a streamed response."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Sampled(_Strict):
    """Fields that both kinds of completion requests have."""

    model: str = Field(max_length=500)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.001, le=1000)
    n: int | None = Field(None, ge=1, le=MAX_N)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: (
        _Stop | Annotated[list[_Stop], Field(fail_fast=True, max_length=16)] | None
    ) = None
    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Only with the values that change nothing.
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    # Say nothing about the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _stream_options_of_a_stream(self):
        if self.stream_options is not None and not self.stream:
            raise Conflict("stream_options", "needs stream to be true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings as a list."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class CompletionRequest(_Sampled):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | _Tokens
        | Annotated[
            list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)
        ]
        | Annotated[
            list[_Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)
        ]
    )
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: int | None = Field(None, ge=1, le=MAX_N)
    suffix: None = None

    @model_validator(mode="after")
    def _best_of_all(self):
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise Conflict("best_of", "has to be n: all answers are given")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Prompts as a list, all texts or all tokens."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return prompt


class TextPart(_Strict):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message. Only text: there are no images, tools or functions."""

    role: Literal["system", "developer", "user", "assistant"]
    content: (
        str | Annotated[list[TextPart], Field(fail_fast=True, max_length=_MAX_PARTS)]
    )
    name: str | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        """Text of all parts."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


_Messages = Annotated[
    list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=10_000)
]


class ResponseFormat(_Strict):
    """Format of the response; only plain text."""

    type: Literal["text"]


class ChatRequest(_Sampled):
    """Body of POST /v1/chat/completions."""

    messages: _Messages
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _fields_go_together(self):
        if self.top_logprobs and not self.logprobs:
            raise Conflict("top_logprobs", "needs logprobs to be true")
        if self.max_tokens == 0:
            raise Conflict("max_tokens", "has to be 1 or more")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise Conflict(
                "max_tokens", "and max_completion_tokens differ: give one of them"
            )
        return self


class RewardRequest(_Strict):
    """Body of POST /v1/rewards: one conversation, or several."""

    model: str = Field(max_length=500)
    messages: (
        _Messages
        | Annotated[
            list[_Messages], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)
        ]
    )
    user: str | None = None

    @property
    def conversations(self) -> list[list[ChatMessage]]:
        """Conversations as a list."""
        messages: Any = self.messages
        return messages if isinstance(messages[0], list) else [messages]


class TokenizeRequest(_Strict):
    """Body of POST /tokenize: a text, or a conversation for the chat template."""

    model: str | None = Field(None, max_length=500)
    prompt: str | None = None
    messages: _Messages | None = None
    add_special_tokens: bool = True

    @model_validator(mode="after")
    def _one_of_them(self):
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class DetokenizeRequest(_Strict):
    """Body of POST /detokenize."""

    model: str | None = Field(None, max_length=500)
    tokens: _TokenIds
