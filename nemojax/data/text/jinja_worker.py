"""Renders chat templates in a process of its own: `python -I jinja_worker.py`.

A sandboxed environment keeps a template from reaching Python, but not from running
for ever or filling the memory; the limits of a process do. Reads one JSON line a
request, `{"template", "messages", "add_generation_prompt", ...}`, and writes one JSON
line, `{"text"}` or `{"error"}`. Imports nothing of nemojax.
"""

import json
import re
import resource
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

MAX_MEMORY_BYTES = 1 << 30
# Marks what is trained, for another library; here it only has to parse.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    return environment


def main() -> None:
    """Answers requests until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    environment = _environment()
    templates: dict[str, jinja2.Template] = {}
    for line in sys.stdin:
        request = json.loads(line)
        source = request.pop("template")
        try:
            if source not in templates:
                plain = _GENERATION.sub("", source)
                templates[source] = environment.from_string(plain)
            answer = {"text": templates[source].render(**request)}
        except MemoryError:
            answer = {"error": f"more than {MAX_MEMORY_BYTES:,} bytes of memory"}
        except Exception as error:  # whatever a template does wrong is its answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
