"""The server application: routes, access, and the form of errors."""

import contextlib
import logging
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nemojax.inference.server import metrics, openapi
from nemojax.inference.server.access import Access
from nemojax.inference.server.chat import chat_completions
from nemojax.inference.server.completions import completions
from nemojax.inference.server.errors import ApiError
from nemojax.inference.server.rewards import rewards
from nemojax.inference.server.served import Served
from nemojax.inference.server.tokens import detokenize, tokenize, tokenizer_info

_log = logging.getLogger(__name__)


def application(served: Served, *, key: str | None = None, host: str = "") -> Starlette:
    """Makes the application that serves a model.

    Args:
      served: the model; its service is started and stopped with the application.
      key: key that clients have to send; None: none.
      host: name that the server was told to listen on.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        if served.service is not None:
            served.service.start()
        yield
        if served.service is not None:
            await served.service.stop()

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/metrics", prometheus, methods=["GET"]),
        Route("/openapi.json", schema, methods=["GET"]),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", model, methods=["GET"]),
        Route("/v1/completions", completions, methods=["POST"]),
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/rewards", rewards, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokenizer_info, methods=["GET"]),
    ]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
        },
    )
    app.state.served = served
    app.router.redirect_slashes = False
    _add_gauges(served)
    app.add_middleware(_Guard, served=served, access=Access(key, host))
    return app


async def health(request: Request) -> Response:
    """Reports whether the engine runs."""
    service = request.app.state.served.service
    if service is not None and not service.healthy:
        raise ApiError(503, "the engine has failed", code="engine_failed")
    return JSONResponse({"status": "ok"})


async def prometheus(request: Request) -> Response:
    """Reports the counters."""
    text = request.app.state.served.metrics.text()
    return Response(text, media_type=metrics.CONTENT_TYPE)


async def schema(request: Request) -> Response:
    """Returns the OpenAPI document."""
    return JSONResponse(openapi.document(request.app.state.served))


async def models(request: Request) -> Response:
    """Lists the one model."""
    return JSONResponse({"object": "list", "data": [_model(request)]})


async def model(request: Request) -> Response:
    """Describes the model of a name."""
    request.app.state.served.check_model(request.path_params["name"])
    return JSONResponse(_model(request))


def _model(request: Request) -> dict[str, object]:
    served: Served = request.app.state.served
    return {
        "id": served.model.name,
        "object": "model",
        "created": served.created,
        "owned_by": "nemojax",
        "max_model_len": served.max_length,
    }


async def _api_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, ApiError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = f"{request.method} {request.url.path}: {error.detail.lower()}"
    headers = dict(error.headers) if error.headers else None
    return ApiError(error.status_code, text, headers=headers).response()


def _add_gauges(served: Served) -> None:
    gauge, service = served.metrics.gauge, served.service
    if served.rewards is not None:
        rewards = served.rewards
        gauge("waiting", "Conversations that wait", lambda: rewards.waiting)
    if service is not None:
        gauge("running", "Answers with a row", lambda: service.load.running)
        gauge("waiting", "Answers without a row", lambda: service.load.waiting)
        gauge("blocks", "Blocks of the cache", lambda: service.load.blocks)
        gauge("free_blocks", "Unused blocks", lambda: service.load.free_blocks)


class _Guard:
    """Middleware that refuses and counts requests, and reports exceptions."""

    def __init__(self, app: ASGIApp, served: Served, access: Access):
        self._app, self._metrics, self._access = app, served.metrics, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._access.refusal(scope)
            if refusal is not None:
                await refusal.response()(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except Exception:
            # Its text may quote a request; it is ours to read and not the client's.
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                error = ApiError(500, "the server has made a mistake; it is logged")
                await error.response()(scope, receive, watched)
        finally:
            # Only paths that there are: a client must not make up labels.
            route = scope["path"] if scope.get("endpoint") else "other"
            if route.startswith("/v1/models/"):
                route = "/v1/models/"
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - start)
