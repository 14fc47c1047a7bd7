"""A real PostgreSQL for the tests: one cluster a session, one fresh database a test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from benchmarks._postgres import Cluster, find_binaries, running

REQUIRED = "PLUMBLINE_REQUIRE_POSTGRES"
"""Set (by `make test-all`): a missing PostgreSQL fails the tests instead of skipping them."""
HOW_TO_INSTALL = "PostgreSQL is not installed. On Debian: apt-get install -y postgresql"

__all__ = ["Cluster", "postgres"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    """The session's cluster."""
    binaries = find_binaries()
    if binaries is None:
        if os.environ.get(REQUIRED):
            pytest.fail(HOW_TO_INSTALL)
        pytest.skip(HOW_TO_INSTALL)
    with running(binaries) as cluster:
        yield cluster
