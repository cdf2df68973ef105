"""Sampling for lists of prompts: batches of few shapes, results in request order."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nemojax.inference.dense import generate
from nemojax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Sample:
    """One continuation.

    Attributes:
      tokens: token ids, without the stop token.
      finish_reason: "stop" at the stop token, "length" at the token limit.
      log_prob: sum of the sampled tokens' log-probs, the stop token's included.
    """

    tokens: list[int]
    finish_reason: str
    log_prob: float


@dataclasses.dataclass(frozen=True)
class Engine:
    """Samples from one model.

    Attributes:
      config: sizes.
      params: as `models.forward.init` makes them.
      mesh: where it runs; `tensor` must be 1.
      stop_id: the token that ends a continuation.
      batch_size: rows of a batch; a multiple of the mesh's `data`.
      slot_multiple: prompts are padded to a multiple of this, so that a run compiles
        few programs.
      max_prompt_tokens: longer prompts are refused.
      max_new_tokens: limit of a continuation.
    """

    config: ModelConfig
    params: Any
    mesh: Mesh
    stop_id: int
    batch_size: int = 256
    slot_multiple: int = 32
    max_prompt_tokens: int = 64
    max_new_tokens: int = 64

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Sample]:
        """One continuation a prompt, in the order given.

        A request's tokens depend on its prompt, seed and temperature, not on the
        other requests.

        Raises:
          ValueError: an empty or too long prompt, or not one seed a prompt.
        """
        if len(seeds) != len(prompts):
            raise ValueError(f"{len(prompts)} prompts, but {len(seeds)} seeds")
        for index, prompt in enumerate(prompts):
            if not 0 < len(prompt) <= self.max_prompt_tokens:
                raise ValueError(
                    f"prompt {index} has {len(prompt)} tokens, "
                    f"allowed are 1 to {self.max_prompt_tokens}"
                )
        # Prompts of one length tend to be of one kind and to end together.
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        samples: list[Sample] = [Sample([], "length", 0.0)] * len(prompts)
        for start in range(0, len(order), self.batch_size):
            indices = order[start : start + self.batch_size]
            batch = self._run([(prompts[i], seeds[i]) for i in indices], temperature)
            for index, sample in zip(indices, batch, strict=True):
                samples[index] = sample
        return samples

    def _run(self, requests, temperature: float) -> list[Sample]:
        longest = max(len(prompt) for prompt, _ in requests)
        slots = -(-longest // self.slot_multiple) * self.slot_multiple
        tokens = np.zeros((self.batch_size, slots), np.int32)
        lengths = np.ones(self.batch_size, np.int32)
        seeds = np.zeros(self.batch_size, np.uint32)
        for row, (prompt, seed) in enumerate(requests):
            tokens[row, slots - len(prompt) :] = prompt
            lengths[row] = len(prompt)
            seeds[row] = seed % 2**32
        result = generate.generate(
            self.config,
            self.params,
            tokens,
            lengths,
            seeds,
            max_new_tokens=self.max_new_tokens,
            temperature=temperature,
            stop_id=self.stop_id,
            mesh=self.mesh,
        )
        out_tokens, out_lengths, out_log_probs = (np.asarray(part) for part in result)
        samples = []
        for row in range(len(requests)):
            ids = out_tokens[row, : out_lengths[row]].tolist()
            stopped = bool(ids) and ids[-1] == self.stop_id
            samples.append(
                Sample(
                    ids[:-1] if stopped else ids,
                    "stop" if stopped else "length",
                    float(out_log_probs[row].sum()),
                )
            )
        return samples
