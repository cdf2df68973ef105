"""Counters in the text format of Prometheus."""

import collections
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one server; several in a process do not share them.

    Attributes:
      requests: requests by route and status.
      seconds: a request took, by route.
      first_token: seconds from the request to the first token.
      prompt_tokens, answer_tokens: read and written.
      given_up: answers that nobody waited for.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "nemojax_requests", "Requests", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "nemojax_request_seconds",
            "Seconds from a request to the end of its response",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "nemojax_first_token_seconds",
            "Seconds from a request to its first token",
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "nemojax_prompt_tokens", "Tokens of prompts", registry=registry
        )
        self.answer_tokens = Counter(
            "nemojax_answer_tokens", "Tokens of answers", registry=registry
        )
        self.given_up = Counter(
            "nemojax_answers_given_up",
            "Answers whose client went away",
            registry=registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is computed when it is read."""
        Gauge(f"nemojax_{name}", text, registry=self._registry).set_function(value)

    def totals(self) -> tuple[int, int, int]:
        """Returns the numbers of requests, prompt tokens and output tokens."""
        found = collections.defaultdict[str, float](float)
        for metric in self._registry.collect():
            for sample in metric.samples:
                found[sample.name] += sample.value
        return (
            int(found["nemojax_requests_total"]),
            int(found["nemojax_prompt_tokens_total"]),
            int(found["nemojax_answer_tokens_total"]),
        )

    def text(self) -> bytes:
        """Returns all counters as text."""
        return generate_latest(self._registry)
