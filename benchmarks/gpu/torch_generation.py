"""The texts of `generation.py` in transformers' `generate`, with the same sizes."""

import functools
from typing import Any

from benchmarks import torch_model
from benchmarks.gpu import sizes, timing
from benchmarks.gpu.job import Job


def run(job: Job) -> None:
    """Measures each model at each number of rows, greedy, with random weights."""
    torch_model.torch()  # says so where it is not installed
    for name, config in sizes.answering(job.small).items():
        model = torch_model.random(config, "bfloat16").eval()
        for rows in sizes.slots(job.small):
            job.measure(
                {"model": name, "rows": rows},
                functools.partial(
                    _row, model, config.vocab_size, rows, *sizes.texts(job.small)
                ),
            )
        del model


def _row(model: Any, vocabulary: int, rows: int, prompt: int, new: int) -> dict:
    torch, where = torch_model.torch(), torch_model.device()
    ids = torch.randint(0, vocabulary, (rows, prompt), device=where)

    def answer(new: int) -> None:
        with torch.no_grad():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        torch_model.wait()

    answer(2)
    prefill, whole = (timing.repeated(lambda _, n=n: answer(n), 1, 1) for n in (1, new))
    return {
        "tokens_per_s": rows * new / whole.best,
        "step_ms": 1e3 * (whole.best - prefill.best) / (new - 1),
        "prefill_ms": 1e3 * prefill.best,
    }
