"""OpenAPI document of the server."""

from typing import Any

from pydantic import BaseModel

from nemojax import __version__
from nemojax.inference.server import protocol
from nemojax.inference.server.served import Served

_POST: dict[str, type[BaseModel]] = {
    "/v1/completions": protocol.CompletionRequest,
    "/v1/chat/completions": protocol.ChatRequest,
    "/v1/rewards": protocol.RewardRequest,
    "/tokenize": protocol.TokenizeRequest,
    "/detokenize": protocol.DetokenizeRequest,
}
_GET = ("/health", "/v1/models", "/v1/models/{name}", "/tokenizer_info")
_REFUSALS = (400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(served: Served) -> dict[str, Any]:
    """Makes the OpenAPI 3.1 document."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for path, kind in _POST.items():
        found = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= found.pop("$defs", {})
        schemas[kind.__name__] = found
        reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
        body = {
            "required": True,
            "content": {"application/json": {"schema": reference}},
        }
        paths[path] = {"post": {"requestBody": body, "responses": _responses()}}
    for path in _GET:
        paths[path] = {"get": {"responses": _responses()}}
    paths["/v1/models/{name}"]["get"]["parameters"] = [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    return {
        "openapi": "3.1.0",
        "info": {"title": f"nemojax: {served.model.name}", "version": __version__},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _responses() -> dict[str, Any]:
    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"application/json": {"schema": schema}}

    error = content({"$ref": "#/components/schemas/Error"})
    return {
        "200": {
            "description": "done",
            "content": {**content({"type": "object"}), "text/event-stream": {}},
        },
        **{
            str(status): {"description": "refused", "content": error}
            for status in _REFUSALS
        },
    }
