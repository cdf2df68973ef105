"""Errors in the form in which OpenAI's clients expect them."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

from nemojax.inference.server import protocol

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}
_CLIENT_CLOSED = 499  # nginx's


class ApiError(Exception):
    """Error response for a client.

    Attributes:
      status: HTTP status.
      message: sentence that says what is wrong, and what would be right.
      param: the field of the request that it is about.
      code: error code for programs.
      headers: headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message = status, message
        self.param, self.code, self.headers = param, code, headers

    @property
    def body(self) -> dict[str, Any]:
        """JSON object of the error."""
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, "invalid_request_error"),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    def response(self) -> JSONResponse:
        """Makes the HTTP response."""
        return JSONResponse(self.body, self.status, self.headers)


def client_gone() -> ApiError:
    """Makes the error of a client that has gone away, which is not told anything."""
    return ApiError(_CLIENT_CLOSED, "the client has gone away")


def too_long(message: str, param: str) -> ApiError:
    """Makes the error of a text for which the context has no room."""
    return ApiError(400, message, param=param, code="context_length_exceeded")


def busy(error: Exception) -> ApiError:
    """Makes the error of a request that finds the queue full."""
    return ApiError(
        429,
        f"{error}; try again later",
        code="queue_full",
        headers={"Retry-After": "1"},
    )


def invalid(error: ValidationError, body: Any) -> ApiError:
    """Makes the error of a body that breaks the schema; names one field."""
    faults = [(_place(fault, body), fault) for fault in error.errors(include_url=False)]
    place, fault = max(faults, key=lambda found: _fit(*found))
    said = fault["msg"].removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    cause = _cause(fault)
    unknown = isinstance(cause, protocol.NotSupported)
    if unknown or protocol.UNSUPPORTED & {*place[:1]}:
        said = "not supported here: leave it out"
    elif fault["type"] == "model_type":
        said = "it has to be an object"
    where = ".".join(map(str, place))
    named = not where or isinstance(cause, protocol.Conflict)
    text = said if named else f"{where}: {said}"
    return ApiError(400, text, param=where or None, code="invalid_request")


def _place(fault: Mapping[str, Any], body: Any) -> list[int | str]:
    """Returns the path of a fault without the names of types, which nobody has sent."""
    found: list[int | str] = []
    for part in fault["loc"]:
        if isinstance(part, int) if isinstance(body, list) else part in _fields(body):
            found.append(part)
            body = body[part]
    missing = fault["loc"][-1:] if fault["type"] == "missing" else ()
    error = _cause(fault)
    named = isinstance(error, protocol.NotSupported | protocol.Conflict)
    return [*found, *missing, *(error.args[:1] if named else ())]


def _fields(body: Any) -> Mapping[str, Any]:
    return body if isinstance(body, dict) else {}


def _cause(fault: Mapping[str, Any]) -> Exception | None:
    """Returns what a validator of our own raised."""
    return fault.get("ctx", {}).get("error")


def _fit(place: list[int | str], fault: Mapping[str, Any]) -> Any:
    """Returns how far a value fits: each type of a union says why it is not meant."""
    indices = [part for part in place if isinstance(part, int)]
    return len(place), indices, not fault["type"].endswith("_type")
