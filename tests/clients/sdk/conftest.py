"""A server on the fake engine, and each of the two clients in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from clients import AsyncPlumbline, Plumbline
from tests.api.served import Served, served
from tests.clients.sdk.flavours import Flavour, flavour


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("sdk")) as one:
        yield one


@pytest.fixture(params=[Plumbline, AsyncPlumbline])
def sdk(request: pytest.FixtureRequest, server: Served) -> Iterator[Flavour]:
    with flavour(request.param, server.url, "default-app", max_retries=0) as one:
        yield one
