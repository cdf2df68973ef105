"""Errors in the form in which OpenAI's clients expect them."""

from typing import Any

from pydantic import ValidationError
from starlette.responses import JSONResponse

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


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


def invalid(error: ValidationError) -> ApiError:
    """Makes the error of a request that breaks the schema; names the first fault."""
    faults = error.errors(include_url=False, include_context=False)
    first = faults[0]
    # Members of unions are named by their types, which no client has sent.
    names = [str(part) for part in first["loc"] if "[" not in str(part)]
    where = ".".join(names)
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    said = first["msg"][:1].lower() + first["msg"][1:]
    text = f"{where}: {said}{more}" if where else f"{said}{more}"
    return ApiError(400, text, param=where or None, code="invalid_request")
