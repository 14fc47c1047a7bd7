"""On-policy rollouts on the real engine: its log-probabilities are the learner's own, and a round that learns from them
gets what is rewarded.
"""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from learner.model import Base, Policy
from learner.prefix import PrefixModel, Row
from learner.vision import Vision
from server.wire.adapters import AdapterManifest
from server.wire.identity import directory_digest
from server.wire.training import LeaseRequest, RolloutRequest
from tests.e2e.conftest import Service, make_service
from tests.e2e.test_openai_client import messages
from tests.engine_fixture import EngineSession, write_random_adapter

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROMPTS = 16
LEARNER = {
    # Pairs name the prompts and do next to nothing else: what is learned, rollouts taught.
    "objectives": {"sigmoid": 1e-6, "grpo": 1.0},
    "rollout_groups": 4,
    "rollout_candidates": 8,
    "learning_rate": 2e-3,
    "epochs": 3,
    "batch_groups": 4,
    "min_new_signals": 1,
    "max_kl": 10.0,
}


@pytest.fixture
def alias(request: pytest.FixtureRequest) -> str:
    """One for each test: they share the session's state, with its groups and leases."""
    return str(request.node.name)


@pytest.fixture
def service(engine_session: EngineSession, tmp_path: Path, alias: str) -> Iterator[Service]:
    """What is rewarded is to be short."""
    one = make_service(
        engine_session, tmp_path, name=alias, scorers=[{"kind": "length", "target_tokens": 5}], learner=LEARNER
    )
    one.start()
    yield one
    one.stop()


async def compare(service: Service, alias: str, prompts: int) -> list[str]:
    """Conversations with a choice, of the shorter answer; their ids."""
    client, http = service.async_openai(), httpx.AsyncClient()
    told: list[str] = []
    for seed in range(4 * prompts):
        if len(told) == prompts:
            break
        reply = await client.chat.completions.create(
            model=alias,
            messages=messages(seed=700 + seed),
            max_tokens=40,
            extra_body={"best_of": 2, "plumbline": {"compare": True}},
        )
        if len(reply.choices) < 2:
            continue
        shorter, longer = sorted(reply.choices, key=lambda choice: len(choice.message.content))
        said = {"completion_id": reply.id, "chosen": shorter.candidate_id, "rejected": longer.candidate_id}
        answer = await http.post(f"{service.url}/v1/preferences", json={**said, "user": f"u{seed}"})
        assert answer.status_code == 200
        told.append(reply.id)
    await http.aclose()
    return told


async def test_what_the_engine_logs_is_what_the_learner_computes(
    service: Service, alias: str, engine_session: EngineSession, tmp_path: Path
) -> None:
    """For an ephemeral adapter that is nothing like the base: each token's log-probability, images and all."""
    groups = await compare(service, alias, 4)
    written = write_random_adapter(tmp_path, "policy", engine_session.model, 0.05, 31)
    files = {name: (written / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
    with service.operator() as client:
        token = client.lease(LeaseRequest(alias=alias, owner="test")).token
        described = [
            {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in files.items()
        ]
        manifest = AdapterManifest.model_validate(
            {
                "alias": alias,
                "base_digest": directory_digest(engine_session.model_dir),
                "ephemeral": True,
                "lease_token": token,
                "files": described,
            }
        )
        adapter = client.upload_adapter(manifest, files).id
        request = RolloutRequest(alias=alias, token=token, adapter=adapter, group_ids=groups, candidates=6, seed=5)
        reply = await asyncio.to_thread(client.rollouts, request)
        policy = Policy.from_files(Base(engine_session.model_dir, "cpu"), files)
        vision = Vision(policy.base.model, engine_session.model_dir, client.media, 2**28)
        own, base, tokens = 0.0, 0.0, 0
        for one in reply.data:
            assert one.group is not None, one
            assert one.group.rewarded and {each.adapter for each in one.group.candidates} == {adapter}
            vision.load(one.group.images)
            features = tuple(vision.features(image) for image in one.group.images)
            answers = tuple(tuple(each.token_ids) for each in one.group.candidates)
            row = Row(tuple(one.group.prompt_token_ids), features, answers)
            logged = torch.cat([torch.tensor(each.logprobs) for each in one.group.candidates])
            with torch.no_grad():
                mine = torch.cat(PrefixModel(policy.model).logprobs([row]))
                with policy.reference():
                    others = torch.cat(PrefixModel(policy.model).logprobs([row]))
            own = max(own, float((mine - logged).abs().max()))
            base = max(base, float((others - logged).abs().max()))
            tokens += len(logged)
        policy.close()
        client.delete_adapter(adapter)
        assert tokens > 100 and own < 1e-3 and base > 0.1


async def test_a_round_of_rollouts_gets_what_is_rewarded(service: Service, alias: str, tmp_path: Path) -> None:
    """It ends in an uploaded adapter that answers shorter, and leaves no ephemeral one behind."""
    assert len(await compare(service, alias, PROMPTS)) == PROMPTS
    command = [sys.executable, "-m", "learner", "--server", service.url, "--alias", alias, "--once"]
    command += ["--state", str(tmp_path / "learner"), "--threads", "1"]
    run = await asyncio.to_thread(subprocess.run, command, check=False, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    with service.operator() as client:
        (adapter,) = client.adapters(alias).data
        assert adapter.state != "ephemeral"
        manifest = client.adapter(adapter.id).manifest
        assert manifest is not None and manifest["sources"]["rollout"] > 100
        reports = client.adapter_report(adapter.id).reports
    detail = next(report["body"] for report in reports if report["kind"] == "round")
    rewards = detail["curve"]["rollout_reward"]
    first, last = rewards[: len(rewards) // 3], rewards[-len(rewards) // 3 :]
    assert sum(last) / len(last) > sum(first) / len(first) + 0.1
