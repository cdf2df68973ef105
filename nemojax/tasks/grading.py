"""Verdict of a verifier on a response."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Grade:
    """A verifier's judgement of one response.

    Attributes:
      correct: the strict verdict.
      score: degree in [0, 1]; 1 is reached only by correct responses.
      checks: the single judgements behind the two, by name.
      parsed: False where no answer could be read out of the response at all.
    """

    correct: bool
    score: float
    checks: dict[str, bool]
    parsed: bool
