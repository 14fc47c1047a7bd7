"""Serves the API of an installation until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from importlib.metadata import version
from wsgiref.simple_server import WSGIServer

import uvicorn
import uvloop
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from prometheus_client import start_http_server
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from server.api import pages
from server.api.connection import Connection
from server.api.elsewhere import offered_instead
from server.api.errors import error_response
from server.api.middleware import Envelope, MethodNotAllowed, from_http_exception
from server.api.openapi import ROUTERS
from server.config import Config
from server.errors import BadRequest, NotFound
from server.installation import (
    Connect,
    Installation,
    StartError,
    connect_engines,
)
from server.logs import configure_logging
from server.metrics import Metrics
from server.services import Services

log = logging.getLogger(__name__)


def create_app(services: Services) -> FastAPI:
    """The ASGI application on an open installation."""
    app = FastAPI(
        title="Plumbline",
        version=version("plumbline"),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.services = services
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(pages.build_router(pages.load(services.config.http.pages)))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        instead = offered_instead(request.scope["path"]) if error.status_code == 404 else None
        response = error_response(NotFound(instead) if instead else from_http_exception(error))
        if error.status_code == MethodNotAllowed.status:
            response.headers["allow"] = ", ".join(_methods(app, request))
        return response

    @app.exception_handler(RequestValidationError)
    async def on_bad_parameters(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return error_response(BadRequest(f"{name}: {first['msg']}", param=name))

    app.add_middleware(Envelope, metrics=services.metrics, settings=services.config.http)
    return app


def _methods(app: FastAPI, request: Request) -> list[str]:
    """What the path takes, whichever route takes it; a framework's own `Allow` knows the first alone."""
    matching = (route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE)
    return sorted({method for route in matching if isinstance(route, Route) for method in route.methods or ()})


def bind(config: Config) -> socket.socket:
    """The listening socket; raises `StartError`."""
    family = socket.AF_INET6 if ":" in config.http.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.http.host, config.http.port))
    except OSError as error:
        listener.close()
        raise StartError(f"http port {config.http.port}: {error.strerror}") from None
    return listener


def serve_metrics(config: Config, metrics: Metrics) -> WSGIServer:
    """The private listener of `/metrics`, on a thread of its own; raises `StartError`."""
    try:
        listener, _ = start_http_server(config.http.metrics_port, config.http.host, metrics.registry)
    except OSError as error:
        raise StartError(f"metrics port {config.http.metrics_port}: {error.strerror}") from None
    return listener


class _Server(uvicorn.Server):
    """Leaves signals to `run`: uvicorn would raise them again after serving, before the state is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def build_server(services: Services) -> uvicorn.Server:
    """The HTTP server, not listening yet."""
    settings = services.config.http
    return _Server(
        uvicorn.Config(
            create_app(services),
            lifespan="off",
            proxy_headers=False,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(settings.keep_alive_s),
            timeout_graceful_shutdown=int(settings.shutdown_grace_s),
            http=functools.partial(  # type: ignore[arg-type]  # it is only called
                Connection, headers_s=settings.header_timeout_s, unread_s=settings.unread_timeout_s
            ),
            ws="none",
        )
    )


async def run(config: Config, connect: Connect) -> None:
    """Serve until a termination signal; raises `StartError`."""
    installation = Installation(config, connect)
    try:
        listener = bind(config)
        services = await installation.open()
        metrics_listener = serve_metrics(config, services.metrics)
        server = build_server(services)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.handle_exit, number, None)
        host, port = listener.getsockname()[:2]
        gc.freeze()  # what is there now stays: looking through it again and again would hold up requests
        log.info("serving", extra={"address": f"{host}:{port}"})
        await server.serve(sockets=[listener])
        metrics_listener.shutdown()
    finally:
        await installation.close()


def serve(config: Config, connect: Connect = connect_engines) -> int:
    """Run the service; the exit status."""
    configure_logging(config.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(config, connect))
    return 0
