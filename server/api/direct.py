"""Routes whose handlers are called straight away, for those that are asked most.

FastAPI's way to a handler (exit stacks, a cache of dependencies, a look for parameters of every kind, a wrapper for
errors) takes longer than what most requests need of the service. A handler that takes nothing but the request and
dependencies that take nothing else needs none of it. Errors go on to `Envelope`, as from any other route.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class DirectRoute(APIRoute):
    """For asynchronous handlers that return a response. Raises `TypeError` where a parameter would need more."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._handler = _Call.of(self.dependant)
        self.app = self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive, send))
        await response(scope, receive, send)


@dataclass(frozen=True, slots=True)
class _Call:
    """A function with where each of its arguments comes from, in the order of its parameters."""

    function: Callable[..., Awaitable[Any]]
    request_name: str | None
    named: tuple[tuple[str, _Call], ...]

    @classmethod
    def of(cls, dependant: Dependant) -> _Call:
        needs = (dependant.path_params, dependant.query_params, dependant.header_params, dependant.cookie_params)
        if any(needs) or dependant.body_params or dependant.call is None or not dependant.is_coroutine_callable:
            raise TypeError(f"{dependant.call} takes more than the request and dependencies, or is no coroutine")
        named = tuple((str(inner.name), cls.of(inner)) for inner in dependant.dependencies)
        return cls(dependant.call, dependant.request_param_name, named)

    async def __call__(self, request: Request) -> Any:
        values: dict[str, Any] = {}
        if self.request_name is not None:
            values[self.request_name] = request
        for name, inner in self.named:
            values[name] = await inner(request)
        return await self.function(**values)
