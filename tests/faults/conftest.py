"""An installation that can be killed, on each database, and the application in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.conftest import store_url
from tests.faults.service import Ledger, Service

__all__ = ["store_url"]


@pytest.fixture
def service(store_url: str, tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, store_url)
    yield service
    service.kill()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()
