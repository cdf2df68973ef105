"""Measures of every stage, on rows that no stage trains on."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from nemojax.data.batching.packing import TokenSequence
from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.corpus import Document
from nemojax.data.records import PreferencePair
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.inference.scoring import scoring
from nemojax.inference.scoring.scorer import REWARDS, Scorer, ScorerConfig
from nemojax.interop.loading import LoadedModel
from nemojax.models.config import ModelConfig
from nemojax.recipe.folder.dataset import spread
from nemojax.reporting import statistics
from nemojax.reporting.statistics import Estimate

# (rows) -> float64 [N], sums of the log-probs of their targets.
Score = Callable[[Sequence[TokenSequence]], np.ndarray]
MAX_DOCUMENTS = 100
SUM, MEAN = "preference_accuracy", "preference_accuracy_per_token"


@dataclasses.dataclass(frozen=True)
class HeldOutText:
    """A held-out document: rows that together hold each of its tokens once."""

    rows: list[TokenSequence]
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures of policies on fixed held-out rows.

    Attributes:
      mesh: Where the models run.
      length: Most tokens of a row.
      texts: Documents by class.
      demonstrations: Encoded conversations by fine-tuning set.
      pairs: Encoded (chosen, rejected) responses.
    """

    mesh: Mesh
    length: int
    texts: dict[str, list[HeldOutText]]
    demonstrations: dict[str, list[TokenSequence]]
    pairs: Sequence[Sequence[TokenSequence]]

    def policy(self, config: ModelConfig, params: Any) -> dict[str, Any]:
        """Computes all measures of a policy.

        Returns:
          `metrics`: estimates by name; `outcomes`: 0 or 1 a pair by name.
        """
        score = functools.partial(self._score, config, params)
        outcomes = self.preferences(score)
        metrics = self.bits_per_byte(score) | self.losses(score)
        metrics |= {name: statistics.share(values) for name, values in outcomes.items()}
        return {
            "metrics": {name: value.to_json() for name, value in metrics.items()},
            "outcomes": outcomes,
        }

    def bits_per_byte(self, score: Score) -> dict[str, Estimate]:
        """Measures bits per byte of UTF-8 by class, comparable over tokenizers.

        Rows are scored by themselves, so a document's context starts anew every
        `length` tokens.
        """
        found = {}
        for name, texts in self.texts.items():
            scores = score([row for text in texts for row in text.rows])
            ends = np.cumsum([len(text.rows) for text in texts])
            sums = [part.sum() for part in np.split(scores, ends[:-1])]
            num_bytes = [text.num_bytes for text in texts]
            found[f"bits_per_byte_{name}"] = ratio(
                -np.array(sums) / math.log(2), num_bytes
            )
        return found

    def losses(self, score: Score) -> dict[str, Estimate]:
        """Measures mean negative log-likelihood, in nats, of a trained token by set."""
        found = {}
        for name, rows in self.demonstrations.items():
            scores = score(rows)
            found[f"{name}_loss"] = ratio(-scores, _targets(rows))
        return found

    def preferences(self, score: Score) -> dict[str, list[int]]:
        """Measures how often chosen is likelier than rejected: by sum, and by mean.

        DPO and RPO raise the sum of the token log-probs, which also favours the
        shorter response; the mean over tokens does not.
        """
        scores = score([row for pair in self.pairs for row in pair])
        counts = _targets([row for pair in self.pairs for row in pair])
        found = {}
        for name, values in ((SUM, scores), (MEAN, scores / counts)):
            found[name] = [int(v) for v in values[0::2] > values[1::2]]
        return found

    def _score(
        self, config: ModelConfig, params: Any, rows: Sequence[TokenSequence]
    ) -> np.ndarray:
        buckets = scoring.choose_buckets(self.mesh, self.length)
        arrays = [(np.asarray(ids), np.asarray(mask, bool)) for ids, mask in rows]
        found = scoring.begin_log_probs(
            config, params, arrays, mesh=self.mesh, buckets=buckets
        )
        return found.result().astype(np.float64)


def _targets(rows: Sequence[TokenSequence]) -> np.ndarray:
    """Counts the targets of each sequence, whose masks of one byte `sum` would wrap."""
    return np.array([np.count_nonzero(mask) for _, mask in rows])


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Returns a ratio of sums over independent examples with its 95 % interval.

    The variance is that of the residuals `numerator - ratio * denominator` (Cochran,
    Sampling Techniques, section 6.4), so that long examples weigh what they should.

    Args:
      numerators: [N], such as bits of a document.
      denominators: [N], such as its bytes; positive.

    Raises:
      ValueError: no examples, lengths that differ, or a value that is not finite.
    """
    above = np.asarray(numerators, np.float64)
    below = np.asarray(denominators, np.float64)
    if len(above) == 0 or above.shape != below.shape:
        raise ValueError(f"shapes {above.shape} and {below.shape} give no ratio")
    if not (np.isfinite(above).all() and (below > 0).all()):
        raise ValueError("a ratio needs finite numerators and positive denominators")
    value = above.sum() / below.sum()
    residuals = above - value * below
    # Their mean is 0; scaled, they spread as the ratio does.
    return statistics.mean(value + residuals * (len(above) / below.sum()))


def texts(
    tokenizer: Tokenizer, documents: Sequence[Document], length: int, num_bytes: int
) -> list[HeldOutText]:
    """Returns the beginnings of documents, about `num_bytes` together.

    Args:
      tokenizer: tokenizer of the text.
      documents: held-out ones of one class.
      length: most tokens of a row, the BOS before each of them included.
      num_bytes: shared out evenly; short documents leave theirs unused.
    """
    documents = spread(documents, MAX_DOCUMENTS)
    most = max(1, num_bytes // len(documents))
    found = []
    for document in documents:
        text = document.text.encode()[:most].decode(errors="ignore")
        if not text:
            continue
        tokens = tokenizer.encode(text)
        rows = []
        for start in range(0, len(tokens), length - 1):
            part = tokens[start : start + length - 1]
            rows.append(([tokenizer.bos_id, *part], [0] + [1] * len(part)))
        found.append(HeldOutText(rows, corpus.utf8_bytes(text)))
    return found


def reward_scorer(model: LoadedModel, length: int) -> Scorer:
    """Makes the scorer of a reward model for rows of at most so many tokens."""
    return Scorer(model, ScorerConfig(REWARDS, max_length=length))


def rewarded(
    scorer: Scorer, pairs: Sequence[PreferencePair]
) -> list[tuple[PreferencePair, np.ndarray]]:
    """Computes the rewards [2] of the responses of the pairs that are short enough."""
    found = []
    for pair in pairs:
        sides = [
            scorer.encode(pair.prompt.with_response(text))
            for text in (pair.chosen, pair.rejected)
        ]
        if max(len(tokens) for tokens, _ in sides) <= scorer.settings.max_length:
            found.append((pair, sides))
    values = scorer.begin([side for _, sides in found for side in sides]).result()
    return [
        (pair, values[2 * index : 2 * index + 2, 0])
        for index, (pair, _) in enumerate(found)
    ]


def reward_accuracy(
    scorer: Scorer, sets: Mapping[str, Sequence[PreferencePair]]
) -> dict[str, dict[str, Any]]:
    """Computes the share of pairs whose chosen response has strictly more reward.

    Returns:
      Estimates by set, and of `all` of them; sets without pairs are left out.
    """
    found = {
        name: np.array([values for _, values in rewarded(scorer, pairs)])
        for name, pairs in sets.items()
        if pairs
    }
    found = {"all": np.concatenate(list(found.values())), **found}
    return {
        name: statistics.pairwise_accuracy(values[:, 0], values[:, 1]).to_json()
        for name, values in found.items()
    }
