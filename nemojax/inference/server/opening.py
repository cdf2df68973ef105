"""Prepares a loaded model to be served."""

from collections.abc import Sequence

import numpy as np

from nemojax.inference.engine import paged
from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import scorer
from nemojax.inference.scoring.scorer import Scorer
from nemojax.inference.server.metrics import Metrics
from nemojax.inference.server.reward_queue import RewardQueue
from nemojax.inference.server.served import Limits, Served
from nemojax.inference.server.service import Service
from nemojax.interop.loading import LoadedModel


def open_model(
    model: LoadedModel, config: EngineConfig, *, max_waiting: int = 256, limits: Limits
) -> Served:
    """Prepares a model to be served.

    A language model's programs are compiled, and its parameters are consumed. A reward
    model compiles each length of its batches when it is first met.

    Raises:
      UserError: shapes that the mesh does not divide.
      DataError: a reward model without a chat template that fits it.
    """
    metrics = Metrics()
    if not model.is_reward_model:
        model = paged.to_engine_params(model, donate=True)
        engine = Engine(model.config, model.params, model.mesh, config)
        _warm_up(engine)
        _ = model.token_names  # found once: a large vocabulary takes a second
        service = Service(engine, max_waiting=max_waiting)
        return Served(model, service, None, (), engine.room, limits, metrics)

    rewards = Scorer(model, scorer.ScorerConfig(scorer.REWARDS, config.max_length))

    def score(tokens: list[Sequence[int]]) -> np.ndarray:
        return rewards.begin([(one, [0] * len(one)) for one in tokens]).result()

    score([[0]])
    queue = RewardQueue(score, max_waiting=max_waiting)
    names = rewards.value_names
    return Served(model, None, queue, names, config.max_length, limits, metrics)


def _warm_up(engine: Engine) -> None:
    """Compiles every program, so that no client waits for it."""
    sampling = Sampling(max_tokens=min(8, engine.room - 1), top_k=2, top=1)
    scored = Sampling(max_tokens=1, prompt_log_probs=True)
    engine.generate([[0], [0]], [sampling, scored])
