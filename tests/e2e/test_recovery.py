"""Processes die; what was acknowledged stays, and the service comes back by itself."""

import subprocess
import sys

import httpx
import pytest

from tests.e2e.conftest import ALIAS, Service
from tests.e2e.test_openai_client import messages

pytestmark = pytest.mark.engine


def test_acknowledged_feedback_survives_kill_9(service: Service) -> None:
    """The server is killed right after its 200: the signal is there after the restart, once (I1, I3)."""
    for seed in range(3):
        reply = service.openai().chat.completions.create(
            model=ALIAS, messages=messages(seed=20 + seed), max_tokens=16, n=1
        )
        headers = {"idempotency-key": f"recovery-{reply.id}"}
        body = {"completion_id": reply.id, "rating": "up"}
        said = httpx.post(f"{service.url}/v1/feedback", json=body, headers=headers)
        service.kill()
        assert said.status_code == 200
        service.start()
        feed = httpx.get(f"{service.url}/v1/training/feed", params={"alias": ALIAS, "limit": 1000}).json()
        # A safety pair may have told of the group before; each entry carries the group's present state.
        newest = [entry for entry in feed["entries"] if entry["group_id"] == reply.id][-1]
        assert len(newest["group"]["unpaired"]) == 1
        again = httpx.post(f"{service.url}/v1/feedback", json=body, headers=headers)
        assert again.json() == said.json()


def test_a_second_server_on_the_same_state_is_refused(service: Service) -> None:
    """One process owns the state; the other says so in one line and exits with 2."""
    command = [sys.executable, "-m", "server", "--config", str(service.config_file)]
    other = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert other.returncode == 2
    assert "Traceback" not in other.stderr


def test_an_orderly_stop_exits_with_zero(service: Service) -> None:
    """SIGTERM ends what is open and leaves cleanly."""
    assert service.stop() == 0
