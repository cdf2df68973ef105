"""Renders chat templates, as a program for `nemojax.execution.worker`.

A sandboxed environment keeps a template from reaching Python, but not from running
for ever or filling the memory; the limits of a process do. Imports nothing of nemojax.
"""

import datetime
import functools
import json
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Renders a template for messages that are shown, and for others in their place.

    Args:
      request: "template" and its "variables"; "shown" and "hidden", each with
        "messages" and "tools"; "add_generation_prompt"; and "prompts", numbers of
        messages that a prompt has.

    Returns:
      The texts "shown" and "hidden", and the texts "prompts" of so many messages.

    Raises:
      Exception: whatever the template does wrong.
    """
    environment = _environment()
    now = datetime.datetime.now()  # the same for all texts
    environment.globals["strftime_now"] = now.strftime
    template = _compiled(request["template"])

    def render(kind: str, count: int | None, opens: bool) -> str:
        return template.render(
            request["variables"],
            messages=request[kind]["messages"][:count],
            tools=request[kind]["tools"],
            documents=None,
            add_generation_prompt=opens,
        )

    opens = request["add_generation_prompt"]
    found: dict[str, Any] = {"shown": render("shown", None, opens)}
    found["prompts"] = [render("shown", count, True) for count in request["prompts"]]
    try:
        found["hidden"] = render("hidden", None, opens)
    except (jinja2.TemplateError, LookupError, TypeError, ValueError) as error:
        problem = f"cannot do without what the messages say: {error}"
        raise jinja2.TemplateError(problem) from error
    return found


@functools.cache
def _compiled(source: str) -> jinja2.Template:
    return _environment().from_string(source)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Writes JSON as it is, without the escapes that Jinja's own filter makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


class _Generation(jinja2.ext.Extension):
    """The tags around what is trained, for another library; here they only parse."""

    tags: set[str] = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Returns what stands between the tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[jinja2.ext.loopcontrols, _Generation],
    )
    environment.globals["raise_exception"] = _raise
    environment.filters["tojson"] = _to_json
    return environment
