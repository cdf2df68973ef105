"""Renders chat templates, as a program for `nemojax.execution.worker`.

A sandboxed environment keeps a template from reaching Python, but not from running
for ever or filling the memory; the limits of a process do. Imports nothing of nemojax.
"""

import functools
import json
import re
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

# Marks what is trained, for another library; here it only has to parse.
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Renders `template` of the request with its other entries; returns `text`.

    Raises:
      Exception: whatever the template does wrong.
    """
    source = request.pop("template")
    return {"text": _compiled(source).render(**request)}


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(_GENERATION.sub("", source))


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    return environment
