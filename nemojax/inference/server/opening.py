"""From a model that is loaded to one that is served."""

from collections.abc import Sequence

import numpy as np

from nemojax.data.records import attribute_names
from nemojax.inference.engine import paged
from nemojax.inference.engine.batching import BatchingEngine
from nemojax.inference.engine.paged_state import Shapes
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import scoring
from nemojax.inference.server.metrics import Metrics
from nemojax.inference.server.reward_queue import RewardQueue
from nemojax.inference.server.served import Limits, Served
from nemojax.inference.server.service import Service
from nemojax.interop.loading import LoadedModel


def open_model(
    model: LoadedModel, shapes: Shapes, *, max_waiting: int = 256, limits: Limits
) -> Served:
    """A model ready to be served.

    A language model's programs are compiled, and the given one is used up. A reward
    model compiles each length of its batches when it is first met.

    Raises:
      ValueError: shapes that the mesh does not divide.
    """
    metrics = Metrics()
    if not model.is_reward_model:
        model = paged.taken_over(model)
        engine = BatchingEngine(model.config, model.params, model.mesh, shapes)
        _warm_up(engine)
        service = Service(engine, max_waiting=max_waiting)
        return Served(model, service, None, (), engine.room, limits, metrics)

    buckets = scoring.choose_buckets(model.mesh, shapes.max_length)

    def score(tokens: list[Sequence[int]]) -> np.ndarray:
        pending = scoring.begin_rewards(
            model.config,
            model.params,
            [(one, [0] * len(one)) for one in tokens],
            mesh=model.mesh,
            buckets=buckets,
        )
        return pending.result()

    count = model.params["reward_head"]["bias"].shape[0]
    names = attribute_names(count)
    score([[0]])
    rewards = RewardQueue(score, max_waiting=max_waiting)
    return Served(model, None, rewards, names, shapes.max_length, limits, metrics)


def _warm_up(engine: BatchingEngine) -> None:
    """Compiles, so that no client waits for it."""
    how = Sampling(max_tokens=min(8, engine.room - 1), top_k=2, top=1)
    engine.submit([0], how)
    engine.submit([0], Sampling(max_tokens=1, prompt_log_probs=True))
    while engine.busy:
        engine.step()
