"""Answers requests under limits: `python -I worker_process.py PROGRAM MEMORY_BYTES`.

Reads one JSON line a request from stdin, calls `answer(request)` of the program, and
writes one JSON line: what it returned, or `{"error"}` with what went wrong. Imports
nothing of nemojax.
"""

import json
import os
import resource
import runpy
import sys


def main(program: str, memory_bytes: int) -> None:
    """Answers requests until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the program prints is no answer
    answer = runpy.run_path(program)["answer"]
    for line in sys.stdin.buffer:
        try:
            text = json.dumps(answer(json.loads(line)))
        except MemoryError:
            text = json.dumps({"error": f"more than {memory_bytes:,} bytes of memory"})
        except Exception as error:  # whatever the code does wrong is its answer
            text = json.dumps({"error": f"{type(error).__name__}: {error}"})
        answers.write(text + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
