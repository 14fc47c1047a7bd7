"""Our own OpenAPI document, and Schemathesis against it: no server error, no undocumented status or reply.

Every request goes to the real server with an operator's key. The quick run makes a few of each route, good and bad; the
long one many.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from server.api.openapi import document
from tests.api.served import Served, served

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]

config = SchemathesisConfig.from_dict({"phases": {"coverage": {"enabled": False}, "stateful": {"enabled": False}}})
schema = schemathesis.openapi.from_dict(document(), config=config)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("openapi")) as site:
        yield site


def examples(count: int) -> settings:
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def send(site: Served, case: schemathesis.Case, checks: list[object]) -> None:
    headers = {"authorization": "Bearer default-operator", "origin": site.url}
    case.call_and_validate(base_url=site.url, headers=headers, checks=checks, timeout=20)


@schema.parametrize()
@examples(6)
def test_every_route_keeps_to_its_document(site: Served, case: schemathesis.Case) -> None:
    """Also where what is sent makes no sense."""
    send(site, case, CHECKS)


def refuses_bad_bodies(context: CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> bool | None:
    """What the document forbids of a body. In a URL a list of one text cannot be told from the text."""
    body = case.meta.components.get(ParameterLocation.BODY) if case.meta else None
    if body is None or not body.mode.is_negative:
        return None
    return negative_data_rejection(context, response, case)


@pytest.mark.slow
@schema.parametrize()
@examples(200)
def test_every_route_keeps_to_its_document_for_long(site: Served, case: schemathesis.Case) -> None:
    """And what the document forbids is refused."""
    send(site, case, [*CHECKS, refuses_bad_bodies])


def test_the_service_stands_after_all_of_it(site: Served) -> None:
    """Nothing that was sent broke it."""
    site.still_serves()


def test_every_route_names_what_it_refuses_with() -> None:
    """All in the one shape; and what has a body says which."""
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            refusals = {status: reply for status, reply in operation["responses"].items() if status >= "400"}
            assert {"400", "404", "408", "431", "500"} <= refusals.keys(), path
            for status, reply in refusals.items():
                named = reply["content"]["application/json"]["schema"]["$ref"]
                assert named.endswith("/Health" if (path, status) == ("/readyz", "503") else "/ErrorReply")
            assert path in {"/healthz", "/readyz"} or operation["security"] == [{"key": []}]
            assert method != "post" or path.endswith("/commit") or "requestBody" in operation
