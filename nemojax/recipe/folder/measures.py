"""What is measured after every stage, on rows that no stage trains on."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from nemojax.data.batching import packing
from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.corpus import Document
from nemojax.data.records import PreferencePair
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.inference.scoring import scoring
from nemojax.models.config import ModelConfig
from nemojax.recipe.folder import examples, material
from nemojax.recipe.miniature.policy import RewardScorer
from nemojax.reporting import statistics
from nemojax.reporting.statistics import Estimate

MAX_DOCUMENTS = 100
SUM, MEAN = "preference_accuracy", "preference_accuracy_per_token"


@dataclasses.dataclass(frozen=True)
class Text:
    """A held-out document: rows that together hold each of its tokens once."""

    rows: list[packing.TokenSequence]
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures policies on fixed held-out rows.

    Attributes:
      config, mesh: the model and where it runs.
      rows, length: shape of a packed batch.
      texts: documents by class.
      demonstrations: encoded conversations by fine-tuning set.
      pairs: encoded (chosen, rejected) responses.
    """

    config: ModelConfig
    mesh: Mesh
    rows: int
    length: int
    texts: dict[str, list[Text]]
    demonstrations: dict[str, list[packing.TokenSequence]]
    pairs: list[tuple[packing.TokenSequence, packing.TokenSequence]]

    def policy(self, params: Any) -> dict[str, Any]:
        """All measures of a policy.

        Returns:
          `metrics`: estimates by name; `outcomes`: 0 or 1 a pair by name.
        """
        outcomes = self.preferences(params)
        metrics = self.bits_per_byte(params) | self.losses(params)
        metrics |= {name: statistics.share(values) for name, values in outcomes.items()}
        return {
            "metrics": {name: value.to_json() for name, value in metrics.items()},
            "outcomes": outcomes,
        }

    def bits_per_byte(self, params: Any) -> dict[str, Estimate]:
        """-log2 p of the text per byte of UTF-8, by class; comparable over tokenizers.

        Rows are scored by themselves, so a document's context starts anew every
        `length` tokens.
        """
        found = {}
        for name, texts in self.texts.items():
            scores = self._score(params, [row for text in texts for row in text.rows])
            ends = np.cumsum([len(text.rows) for text in texts])
            sums = [part.sum() for part in np.split(scores, ends[:-1])]
            num_bytes = [text.num_bytes for text in texts]
            found[f"bits_per_byte_{name}"] = ratio(
                -np.array(sums) / math.log(2), num_bytes
            )
        return found

    def losses(self, params: Any) -> dict[str, Estimate]:
        """Mean negative log-likelihood, in nats, of a trained token, by set."""
        found = {}
        for name, rows in self.demonstrations.items():
            scores = self._score(params, rows)
            found[f"{name}_loss"] = ratio(-scores, [sum(mask) for _, mask in rows])
        return found

    def preferences(self, params: Any) -> dict[str, list[int]]:
        """Whether chosen is strictly more likely than rejected: by sum, and by mean.

        DPO and RPO raise the sum of the token log-probs, which also favours the
        shorter response; the mean over tokens does not.
        """
        scores = self._score(params, [row for pair in self.pairs for row in pair])
        counts = np.array([sum(row[1]) for pair in self.pairs for row in pair])
        found = {}
        for name, values in ((SUM, scores), (MEAN, scores / counts)):
            found[name] = [int(v) for v in values[0::2] > values[1::2]]
        return found

    def _score(self, params: Any, rows: Sequence[packing.TokenSequence]) -> np.ndarray:
        scores = scoring.score_log_probs(
            self.config,
            params,
            rows,
            mesh=self.mesh,
            rows=self.rows,
            length=self.length,
        )
        return scores.astype(np.float64)


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """A ratio of sums over independent examples, with its 95 % interval.

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
) -> list[Text]:
    """The beginnings of documents, about `num_bytes` together.

    Args:
      tokenizer: gives the tokens.
      documents: held-out ones of one class.
      length: most tokens of a row, the BOS before each of them included.
      num_bytes: shared out evenly; short documents leave theirs unused.
    """
    documents = material.spread(documents, MAX_DOCUMENTS)
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
        found.append(Text(rows, corpus.utf8_bytes(text)))
    return found


def encoded_pairs(
    tokenizer: Tokenizer, pairs: Sequence[PreferencePair]
) -> list[tuple[packing.TokenSequence, packing.TokenSequence]]:
    """(tokens, loss_mask) of the chosen and of the rejected responses."""
    encode = examples.TEMPLATE.encode_response
    return [
        (
            encode(tokenizer, pair.prompt, pair.chosen),
            encode(tokenizer, pair.prompt, pair.rejected),
        )
        for pair in pairs
    ]


def rewards(scorer: RewardScorer, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """float32 [N, 2]: rewards of the chosen and of the rejected responses."""
    conversations = [
        pair.prompt.with_response(text)
        for pair in pairs
        for text in (pair.chosen, pair.rejected)
    ]
    return scorer.attributes(conversations)[:, 0].reshape(-1, 2)


def reward_accuracy(
    scorer: RewardScorer, sets: Mapping[str, Sequence[PreferencePair]]
) -> dict[str, dict[str, Any]]:
    """The share of pairs whose chosen response has strictly the higher reward.

    Returns:
      Estimates by set, and of `all` of them; sets without pairs are left out.
    """
    found = {name: rewards(scorer, pairs) for name, pairs in sets.items() if pairs}
    found = {"all": np.concatenate(list(found.values())), **found}
    return {
        name: statistics.pairwise_accuracy(values[:, 0], values[:, 1]).to_json()
        for name, values in found.items()
    }
