"""The whole loop with the real learner: signals become an adapter that the engine serves as it was trained."""

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.conftest import ALIAS, Service, wait_for_state
from tests.e2e.test_openai_client import messages

pytestmark = pytest.mark.engine


async def test_choices_become_a_served_adapter(service: Service, tmp_path: Path) -> None:
    """Choices → feed → learner → upload → probe (train equals serve) → gate → canary → active."""
    client, http = service.async_openai(), httpx.AsyncClient()
    said = 0
    for seed in range(60):
        reply = await client.chat.completions.create(
            model=ALIAS,
            messages=messages(seed=300 + seed),
            max_tokens=40,
            extra_body={"best_of": 3, "plumbline": {"compare": True}},
        )
        if len(reply.choices) < 2:
            continue
        shorter, longer = sorted(reply.choices, key=lambda choice: len(choice.message.content))
        said_of = {"completion_id": reply.id, "chosen": shorter.candidate_id, "rejected": longer.candidate_id}
        body = {**said_of, "user": f"u{seed}"}  # of one annotator only a share is learned
        assert (await http.post(f"{service.url}/v1/preferences", json=body)).status_code == 200
        said += 1
    assert said >= 20

    command = [sys.executable, "-m", "learner", "--server", service.url, "--alias", ALIAS, "--once"]
    command += ["--state", str(tmp_path / "learner")]
    learner = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True, timeout=240)
    assert learner.returncode == 0, learner.stderr[-3000:]

    with service.operator() as operator:
        adapter = operator.adapters(ALIAS).data[-1].id
        manifest = operator.adapter(adapter).manifest
        assert manifest is not None
        assert manifest["sources"]["choice"] >= 20
    await wait_for_state(service, adapter, "canary")
    for index in range(40):  # the canary's users
        await client.chat.completions.create(model=ALIAS, messages=messages(), max_tokens=8, user=f"canary-{index}")
    await wait_for_state(service, adapter, "active")
    with service.operator() as operator:
        reports = {report["kind"]: report for report in operator.adapter_report(adapter).reports}
        assert reports["probe"]["outcome"] == "passed"
    reply = await client.chat.completions.create(model=ALIAS, messages=messages(), max_tokens=8)
    assert reply.plumbline["adapter"] == adapter
