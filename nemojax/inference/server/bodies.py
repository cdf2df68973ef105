"""Bodies of requests: read in time, parsed, and validated."""

import asyncio
import contextlib
import gc
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import ClientDisconnect, Request

from nemojax.inference.server import errors
from nemojax.inference.server.errors import ApiError

Body = TypeVar("Body", bound=BaseModel)
_JSON: TypeAdapter[Any] = TypeAdapter(Any)
# A body of fewer bytes is parsed where it is: others wait less than for a thread.
_SMALL = 2**16


async def read(request: Request, limit: int, seconds: float) -> bytes:
    """Reads a body.

    Args:
      request: request whose body it is.
      limit: most bytes.
      seconds: until all of it has come.

    Raises:
      ApiError: it is too large or does not come in time, or the client goes away.
    """
    content = bytearray()
    too_large = ApiError(
        413, f"the body may have {limit:,} bytes", code="body_too_large"
    )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise too_large
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not come in {seconds:g} s",
            headers={"Connection": "close"},
        ) from None
    except ClientDisconnect as error:
        raise errors.client_gone() from error
    return bytes(content)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the collector from looking at a million new lists, again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


async def parse(content: bytes, kind: type[Body]) -> Body:
    """Parses and validates a body, a large one while others are served.

    Raises:
      ApiError: it is no JSON, or breaks the schema.
    """
    if len(content) < _SMALL:
        return _parse(content, kind)
    return await asyncio.to_thread(_parse, content, kind)


def _parse(content: bytes, kind: type[Body]) -> Body:
    try:
        with _no_collection():
            body = _JSON.validate_json(content)
    except ValidationError as error:
        raise errors.invalid(error, None) from error
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise errors.invalid(error, body) from error
