"""Generation: prompts read, tokens decoded by the engine and by a bare loop."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import bare_decoding
from benchmarks.gpu import ceilings, layers, sizes, timing
from benchmarks.gpu.job import Job
from nemojax.inference.engine import paged
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.models.config import ModelConfig
from nemojax.parallel import mesh as meshes
from nemojax.planning import counts

_BLOCK, _STEPS = 32, 16
_PREFILL_SLOTS = 32


def run(job: Job) -> None:
    """Measures each model at each number of slots, greedy, with random weights."""
    mesh = meshes.make_mesh()
    _, bandwidth = ceilings.copies(job.small)
    for name, config in sizes.answering(job.small).items():
        params = paged.by_layer(config, layers.initial(config), mesh, donate=True)
        for slots in sizes.slots(job.small):
            case = _Case(config, params, mesh, slots, *sizes.texts(job.small))
            job.measure(
                {"model": name, "slots": slots}, functools.partial(case.row, bandwidth)
            )
            del case
        del params


class _Case:
    """A model with so many slots, for prompts and answers of one length."""

    def __init__(
        self,
        config: ModelConfig,
        params: Any,
        mesh: Any,
        slots: int,
        prompt: int,
        new: int,
    ):
        self.config, self.params, self.mesh = config, params, mesh
        self.slots, self.prompt, self.new = slots, prompt, new
        length = prompt + new
        self.engine_config = EngineConfig(
            slots=slots,
            blocks=slots * length // _BLOCK + 1,
            block_size=_BLOCK,
            max_length=length,
            prefill_slots=min(slots, _PREFILL_SLOTS),
            chunk=prompt,
            tile=length,
            steps=_STEPS,
        )

    def row(self, bandwidth: float) -> dict[str, Any]:
        """Measures; `bandwidth` is what the memory reaches, in bytes per second."""
        first, served, listed, prefill = self._engine_seconds()
        bare = self._bare_seconds()
        tokens, step = self.slots * self.new, bare / self.new
        rates = timing.rates(*self._prefill_flops(), prefill)
        return {
            "first_s": first,
            "engine_tokens_per_s": tokens / served,
            "generate_tokens_per_s": tokens / listed,
            "bare_tokens_per_s": tokens / bare,
            "engine_percent_of_bare": 100 * bare / served,
            "step_ms": 1e3 * step,
            "roofline_percent": 100 * self._bytes() / bandwidth / step,
            "prefill_ms": 1e3 * prefill,
            **{f"prefill_{name}": value for name, value in rates.items()},
        }

    def _engine_seconds(self) -> tuple[float, float, float, float]:
        """Times the first answers, later ones by `step` and `generate`, and prompts."""
        start = time.perf_counter()
        engine = Engine(self.config, self.params, self.mesh, self.engine_config)
        shape, vocabulary = (self.slots, self.prompt), self.config.vocab_size
        prompts = np.random.default_rng(0).integers(0, vocabulary, shape).tolist()
        _serve(engine, prompts, self.new)
        first = time.perf_counter() - start
        how = Sampling(temperature=0, max_tokens=self.new)
        return (
            first,
            _timed(lambda: _serve(engine, prompts, self.new)),
            _timed(lambda: engine.generate(prompts, how)),
            _timed(lambda: _serve(engine, prompts, 1)),
        )

    def _bare_seconds(self) -> float:
        programs = paged.Programs(
            self.config, self.params, self.mesh, self.engine_config
        )
        loop = bare_decoding.loop(programs, self.engine_config, self.prompt, self.new)
        loop()
        return _timed(loop)

    def _bytes(self) -> float:
        """Counts the bytes that a step reads: weights, and the cache half way on."""
        c = self.config
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(self.params))
        if not c.tied_embeddings:  # of the table a step reads a row for each slot
            weights -= self.params["embedding"]["table"].nbytes
        numbers = 2 * c.num_layers * c.num_kv_heads * c.head_dim
        return weights + 2 * numbers * self.slots * (self.prompt + self.new / 2)

    def _prefill_flops(self) -> tuple[float, float]:
        """Counts operations on the prompts, and those that are not masked."""
        c = self.config
        matrices = 2.0 * c.num_layers * counts.layer_matrix_parameters(c) * self.prompt
        head = 2.0 * c.vocab_size * c.d_model  # at the last token alone
        whole, causal = (
            c.num_layers * counts.attention_flops(c, self.prompt, causal=causal)
            for causal in (False, True)
        )
        return (
            self.slots * (matrices + head + whole),
            self.slots * (matrices + head + causal),
        )


def _timed(run: Callable[[], Any]) -> float:
    """Returns the seconds of a run that waits for its own end; all is compiled."""
    return timing.repeated(lambda number: run(), 1, 2).best


def _serve(engine: Engine, prompts: list[list[int]], new: int) -> None:
    """Answers as a server does, which reads a call's output while the next runs."""
    for prompt in prompts:
        engine.submit(prompt, Sampling(temperature=0, max_tokens=new))
    while engine.busy:
        engine.step()
