"""The engine's decode calls with nothing around them: what the engine can reach."""

from collections.abc import Callable

import numpy as np

from nemojax.inference.engine.config import EngineConfig
from nemojax.inference.engine.paged import Programs
from nemojax.inference.engine.paged_state import DecodeInput
from nemojax.inference.engine.sampling import Sampling, settings


def loop(
    programs: Programs, config: EngineConfig, prompt: int, new: int
) -> Callable[[], None]:
    """Makes what decodes `new` tokens of all slots, after `prompt` tokens of each.

    Args:
      programs: programs of a model on one device.
      config: sizes that the programs were made with; each slot has all its blocks.
      prompt: tokens of each slot that count as there already.
      new: a multiple of the tokens of a decode call.
    """
    fresh = programs.start()
    state = [
        fresh._replace(
            done=fresh.done & False, length=fresh.length + prompt, count=fresh.count + 1
        )
    ]
    table = np.arange(1, config.blocks, dtype=np.int32).reshape(config.slots, -1)
    how = settings([Sampling(temperature=0, max_tokens=10**6)] * config.slots)
    none = np.zeros(1, np.int32)
    inputs = DecodeInput(np.ones(config.slots, bool), table, none, how)

    def run() -> None:
        state[0] = state[0]._replace(length=state[0].length * 0 + prompt)
        for _ in range(new // config.steps):
            state[0], output = programs.decode(state[0], inputs)
        np.asarray(output.token)

    return run
