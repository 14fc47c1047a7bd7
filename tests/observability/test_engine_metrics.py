"""What dashboards ask of vLLM, vLLM has."""

from __future__ import annotations

import urllib.request

import pytest

from tests.engine_fixture import EngineSession
from tests.observability.queries import families, named


@pytest.mark.engine
def test_the_engine_has_the_metrics_that_dashboards_ask_for(engine_session: EngineSession) -> None:
    with urllib.request.urlopen(f"{engine_session.url}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    registered = families(line.split()[2] for line in lines if line.startswith("# TYPE "))
    asked = {one for one in named() if one.startswith("vllm:")}
    assert len(asked) >= 4
    assert not asked - registered
