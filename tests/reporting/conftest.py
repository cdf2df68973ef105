"""A small made-up run with every section of the report."""

import copy
import math
from typing import Any

import pytest

from nemojax.reporting import statistics

FAMILIES = ("math", "code", "instructions", "facts")
SOLVED = {
    "Base": (326, 632, 47, 551),
    "Code SFT": (4, 707, 0, 2),
    "General SFT": (886, 655, 515, 427),
    "Unfiltered data": (851, 630, 472, 430),
    "DPO": (906, 668, 543, 425),
    "Only chosen, no β": (912, 671, 561, 421),
    "RPO 1": (913, 679, 561, 431),
    "RPO 2": (915, 685, 570, 429),
    "RPO 3": (921, 688, 583, 433),
}
CONTROLS = ("Unfiltered data", "Only chosen, no β")


def estimate(solved: int, n: int = 1000) -> dict[str, Any]:
    return statistics.wilson(solved, n).to_json()


def metrics(solved: tuple[int, ...]) -> dict[str, Any]:
    return dict(zip(FAMILIES, map(estimate, solved), strict=True))


def answer(stage: str, text: str, correct: bool | None, verdict: str) -> dict[str, Any]:
    return {"stage": stage, "text": text, "correct": correct, "verdict": verdict}


COMPARISONS = [
    {
        "before": "General SFT",
        "after": "DPO",
        "family": "math",
        "value": 0.02,
        "interval": [0.008, 0.033],
        "won": 31,
        "lost": 11,
        "p_value": 0.0029,
    },
    {
        "before": "DPO",
        "after": "RPO 3",
        "family": "all",
        "value": 0.0003,
        "interval": [-0.012, 0.014],
        "won": 29,
        "lost": 28,
        "p_value": 1.0,
    },
]


GOALS = [
    {
        "name": "Reward model on the policy's own pairs",
        "threshold": 0.65,
        "value": 0.682,
        "interval": [0.65, 0.713],
        "reached": True,
    },
    {
        "name": "RPO 3 above the control without the preference loss",
        "threshold": 0.0,
        "unit": "difference",
        "value": 0.004,
        "interval": [-0.011, 0.019],
        "reached": False,
    },
    {
        "name": "Facts of the final model",
        "threshold": 0.45,
        "value": None,
        "interval": None,
        "reached": None,
    },
]


@pytest.fixture
def run() -> dict[str, Any]:
    """A report as `report.write_report` takes it; a new object for each test."""
    stages = [
        {
            "name": name,
            "metrics": metrics(solved),
            "seconds": 12.5 * (index + 1),
            "control": name in CONTROLS,
        }
        for index, (name, solved) in enumerate(SOLVED.items())
    ]
    code = "def f(x):\n x = sorted(x)\n return x[0]"
    return {
        "title": "The whole recipe in miniature",
        "subtitle": "A 0.5 M parameter model, trained from scratch on two CPU cores.",
        "highlights": [
            {"label": "Final model", "value": "65.6 %", "note": "four families"},
            {"label": "Teacher", "value": "57.9 %", "note": "its own answers"},
            {"label": "Time", "value": "8 min 09 s", "note": "from nothing"},
        ],
        "teacher": {
            "name": "scripted teacher",
            "metrics": metrics((622, 623, 429, 651)),
            "seconds": 29.0,
        },
        "stages": stages,
        "notes": [
            "The teacher's random slips are independent, so that beating it is partly "
            "built in; the second teacher errs systematically.",
            "Base is prompted in its own format, the other stages in chat format.",
        ],
        "comparisons": copy.deepcopy(COMPARISONS),
        "goals": copy.deepcopy(GOALS),
        "reward_model": {
            "pairs": [
                {
                    "name": "Teacher's pairs",
                    "overall": estimate(840),
                    "families": {"math": estimate(880), "code": estimate(801)},
                },
                {
                    "name": "Policy's own pairs",
                    "overall": estimate(620),
                    "families": {"math": estimate(643), "code": estimate(598)},
                },
            ],
            "filter": [
                {"family": "math", "raw": estimate(622), "kept": estimate(861)},
                {"family": "code", "raw": estimate(623), "kept": estimate(774)},
            ],
        },
        "curves": {
            "Pretraining": [
                {"step": s, "loss": 1.6 + 4.9 * math.exp(-s / 300) + 0.2 * math.sin(s)}
                for s in range(0, 2668, 4)
            ],
            "RPO 1": [{"step": s, "loss": 0.9 - 0.01 * s} for s in range(28)],
        },
        "samples": [
            {
                "family": "math",
                "prompt": "Start with 12. Add 8, then take away 9.",
                "before": answer("General SFT", "12+8=21. #### 12", False, "wrong"),
                "after": answer("RPO 3", "12+8=20. #### 11", True, "correct"),
            },
            {
                "family": "code",
                "prompt": "Write f(x): sort the list, then return the first value.",
                "before": answer("General SFT", "I can help!", None, "no answer"),
                "after": answer("RPO 3", code, True, "8 of 8 tests"),
            },
        ],
        "times": {"pretraining": 210.0, "reward model": 35.0, "evaluation": 51.0},
        "settings": {
            "seed": 3,
            "model": {"parameters": 526_080, "layers": 2, "d_model": 128},
            "RPO": {"beta": 0.1, "eta": 1.0, "pairs": [2000, 2000, 2000]},
        },
    }
