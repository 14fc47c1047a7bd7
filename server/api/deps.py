"""What every handler depends on: the services, who is calling, and the strictly parsed body."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar, cast

from fastapi import Depends, Request
from fastapi.dependencies.utils import get_flat_dependant
from pydantic import BaseModel, ValidationError

from server.api.validation import bad_request
from server.errors import BadRequest, Forbidden, Unauthorized, UnsupportedMedia
from server.services import Services
from server.store.keys import KeyRecord

M = TypeVar("M", bound=BaseModel)

BODY_MODEL = "body_model"
"""On a dependency that parses the body: its model."""
CALLER_ROLE = "caller_role"
"""On a dependency that lets callers through: the role that it asks for."""

LINE_AND_COLUMN = re.compile(r"at line (\d+) column (\d+)$")


class Role(StrEnum):
    APP = "app"
    LEARNER = "learner"
    OPERATOR = "operator"


ALLOWED = {
    Role.APP: {Role.APP, Role.OPERATOR},
    Role.LEARNER: {Role.LEARNER, Role.OPERATOR},
    Role.OPERATOR: {Role.OPERATOR},
}
"""For each role that a route asks for, the roles that satisfy it."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is calling. `key_id` is "local" where no keys are required."""

    tenant: str
    role: Role
    key: KeyRecord

    @property
    def key_id(self) -> str:
        return self.key.id

    @classmethod
    def of(cls, key: KeyRecord) -> Self:
        return cls(key.tenant, Role(key.role), key)


LOCAL = Principal.of(KeyRecord("local", "default", Role.OPERATOR))


async def get_services(request: Request) -> Services:
    """Async, though it waits for nothing: a plain function would cost every request a hop to a thread and back."""
    return cast(Services, request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


async def find_principal(request: Request, services: Services) -> Principal:
    """The bearer of the request's key; raises `Unauthorized` or `RateLimited`."""
    key = await _find_key(request, services) if services.config.http.require_keys else LOCAL.key
    services.budgets.count_request(key)
    return LOCAL if key is LOCAL.key else Principal.of(key)


async def _find_key(request: Request, services: Services) -> KeyRecord:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Unauthorized("Send your API key as `Authorization: Bearer <key>`.")
    found = await services.keys.find(key)
    if found is None:
        raise Unauthorized("This API key is not known, has expired or was revoked.")
    return found


def _is_from_another_site(request: Request) -> bool:
    """Whether a browser sends this for a page that is not ours. Without keys nothing else would tell it from its user;
    and a body without a content type needs no leave of ours.
    """
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and origin.partition("://")[2] != request.headers.get("host")


def check_parameters(request: Request) -> None:
    """Raises `BadRequest` for a query parameter that the route does not have: passed over, it would seem to count."""
    if not request.scope["query_string"]:
        return
    known = {field.alias for field in get_flat_dependant(request.scope["route"].dependant).query_params}
    for name in request.query_params:
        if name not in known:
            shown = name[:64]
            raise BadRequest(f"Unknown query parameter: {shown}.", param=shown, code="unknown_parameter")


def require(role: Role) -> Any:
    """A dependency that lets only callers of the role through."""

    async def check(request: Request, services: ServicesDep) -> Principal:
        if role is not Role.APP and _is_from_another_site(request):
            raise Forbidden("Pages of other sites cannot do this.", code="cross_origin")
        principal = await find_principal(request, services)
        if principal.role not in ALLOWED[role]:
            raise Forbidden(f"This needs a key of the role {role.value}.")
        check_parameters(request)
        return principal

    setattr(check, CALLER_ROLE, role)
    return Depends(check)


AppCaller = Annotated[Principal, require(Role.APP)]
LearnerCaller = Annotated[Principal, require(Role.LEARNER)]
OperatorCaller = Annotated[Principal, require(Role.OPERATOR)]


def json_body(model: type[M]) -> Any:
    """A dependency that parses the body strictly; raises `BadRequest` or `UnsupportedMedia`."""

    async def parse(request: Request) -> M:
        content_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
        if content_type != "application/json":
            raise UnsupportedMedia("Send the body as application/json.", code="unsupported_media_type")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("Send the body uncompressed.")
        return parse_json(model, await request.body())

    setattr(parse, BODY_MODEL, model)
    return Depends(parse)


def parse_json(model: type[M], body: bytes) -> M:
    """Validate JSON bytes; the error names the first wrong field and never quotes its content."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise _not_json(body, str(first["ctx"]["error"])) from None
        raise bad_request(error, model) from None


def _not_json(body: bytes, why: str) -> BadRequest:
    """Where it stops being JSON; never what stands there."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return BadRequest(f"The body is not UTF-8 at byte {error.start}.", code="invalid_encoding")
    place = LINE_AND_COLUMN.search(why)
    lines = body.split(b"\n")
    at = sum(len(line) + 1 for line in lines[: int(place[1]) - 1]) + int(place[2]) if place else len(body)
    if "hex escape" in why:
        return BadRequest(f"A text holds half a character (a lone surrogate) at byte {at}.", code="invalid_encoding")
    return BadRequest(f"The body is not valid JSON at byte {at}.", code="invalid_json")


def now() -> float:
    """Wall-clock time of records, UTC seconds since the epoch."""
    return time.time()


Clock = Callable[[], float]
