"""Our own OpenAPI document: every route with its body, its replies and every refusal that it really gives.

The framework sees neither the bodies, which `json_body` parses, nor the refusals, which have one shape and come from
every layer. Both are added here, from the routes themselves, so no route can be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from server.api import (
    activity,
    adapters,
    chat,
    exchange,
    feedback,
    health,
    keys,
    models,
    operate,
    privacy,
    rounds,
    training,
)
from server.api.deps import BODY_MODEL, CALLER_ROLE
from server.wire.errors import ErrorReply

ROUTERS: Final[tuple[APIRouter, ...]] = tuple(
    module.router
    for module in (
        chat,
        models,
        feedback,
        exchange,
        training,
        rounds,
        adapters,
        operate,
        activity,
        keys,
        privacy,
        health,
    )
)
REF: Final = "#/components/schemas/{model}"

ALWAYS: Final = {
    400: "The request is wrong; `param` names where.",
    408: "It did not arrive in time.",
    431: "Too many or too long headers.",
    500: "Something went wrong here; not to be repeated.",
}
WITH_KEY: Final = {
    401: "No key, or none that is in force.",
    403: "The key's role does not allow it, or it comes from a page of another site.",
    429: "A budget is spent, or the queue is full; Retry-After.",
    503: "The store, or every engine, is away; Retry-After.",
}
WITH_BODY: Final = {413: "The body is too large.", 415: "Not JSON, or encoded."}
FOUND: Final = {404: "Unknown, or another tenant's."}
TAKEN_BACK: Final = FOUND | {410: "It has expired or was erased.", 422: "The Idempotency-Key had another body."}
MOVED: Final = {412: "Routing moved since the caller looked."}
FURTHER: Final[dict[str, dict[int, str]]] = {
    "/v1/feedback": TAKEN_BACK,
    "/v1/preferences": TAKEN_BACK,
    "/v1/adapters/{adapter}/{action}": MOVED,
    "/v1/rollback": MOVED,
    "/v1/rollback/undo": MOVED,
    "/v1/adapters/{upload}/files/{name}": WITH_BODY,
}
"""What single paths refuse with beside the rest."""


def document() -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]
    made = get_openapi(title="Plumbline", version=version("plumbline"), routes=routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    models = {model for route in routes for model in _marked(route.dependant, BODY_MODEL)} | {ErrorReply}
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF)
    schemas |= definitions["$defs"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    made["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for route in routes:
        for method in route.methods or ():
            _complete(made["paths"][route.path_format][method.lower()], route)
    return made


def _complete(operation: dict[str, Any], route: APIRoute) -> None:
    """Add what the framework does not see."""
    models = list(_marked(route.dependant, BODY_MODEL))
    for model in models:
        schema = {"$ref": REF.format(model=model.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    needs_key = any(_marked(route.dependant, CALLER_ROLE)) or route.path in {"/v1/feedback", "/v1/preferences"}
    if needs_key:
        operation["security"] = [{"key": []}]
    refusals = ALWAYS | (WITH_KEY if needs_key else {}) | (WITH_BODY if models else {}) | FOUND
    replies = operation["responses"]
    replies.pop("422", None)
    error = {"application/json": {"schema": {"$ref": REF.format(model=ErrorReply.__name__)}}}
    for status, why in sorted((refusals | FURTHER.get(route.path, {})).items()):
        replies.setdefault(str(status), {"description": why, "content": error})


def _marked(dependant: Dependant, name: str) -> Iterator[Any]:
    """What the route's dependencies carry under this name."""
    if (value := getattr(dependant.call, name, None)) is not None:
        yield value
    for one in dependant.dependencies:
        yield from _marked(one, name)
