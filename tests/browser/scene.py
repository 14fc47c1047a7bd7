"""A service with something to look at: answers worth reading, several adapters, people who said something."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from reward.types import Prompt
from server.config import AliasConfig, RolloutConfig, RuleConfig, ScorerConfig, SignalsConfig
from tests.api.conftest import CHAT, chat_body
from tests.api.served import Served, served
from tests.engine_fixture import model_directory, write_random_adapter
from tests.server.adapters.support import manifest_for

FILES = ("adapter_config.json", "adapter_model.safetensors")
ANSWERS = (
    "There is a red kettle on the left and a blue box to the right of it. Both stand on a light table.",
    "I can see two things: a blue box, and left of it a red kettle.",
    "A red kettle and a blue box.",
    "The picture shows a green box on a table. The access code is 4711.",
)
ALIAS: dict[str, Any] = {
    "best_of": 4,
    "rules": (RuleConfig(name="access_code", kind="pattern", pattern=r"access code is \d"),),
    "scorers": (ScorerConfig(kind="logprob"), ScorerConfig(kind="length", name="brevity", target_tokens=14)),
    "signals": SignalsConfig(holdout_share=0.0),
    "rollout": RolloutConfig(automatic=False),
}


def answers(model: str, prompt: Prompt, index: int) -> str:
    """What the fake engine says: by candidate, and by adapter."""
    said = ANSWERS[index % len(ANSWERS)]
    return said if "/" in model else f"{said} It looks calm."


@contextlib.contextmanager
def site_at(directory: Path, *, require_keys: bool = False, **alias: Any) -> Iterator[Served]:
    """The service on the fake engine, with these settings of its alias."""
    with served(directory, require_keys=require_keys, aliases=(AliasConfig(**(ALIAS | alias)),)) as site:
        site.engine.script = answers
        yield site


def picture() -> bytes:
    """A small scene as PNG."""
    image = Image.new("RGB", (480, 320), "#efe9dd")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 225, 480, 320), fill="#d8cbb4")
    draw.ellipse((90, 120, 215, 245), fill="#c8452d")
    draw.rectangle((140, 95, 165, 130), fill="#a33722")
    draw.rectangle((285, 130, 400, 245), fill="#2f6fb0")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def asked(site: Served, method: str, path: str, body: Any = None, *, who: str = "default-operator") -> Any:
    """The parsed reply of a call that has to work."""
    answer = site.ask(method, path, body, who=who)
    assert answer.status == 200, answer
    return json.loads(answer.body)


def upload(site: Served, *, seed: int, parent: str = "base") -> str:
    """An adapter, once it has passed the gate; its id."""
    written = write_random_adapter(site.directory / "made", f"made-{seed}", str(model_directory()), seed=seed)
    config, tensors = ((written / name).read_bytes() for name in FILES)
    manifest = manifest_for(
        config,
        tensors,
        base_digest=site.services.base_digest,
        parent=parent,
        objective={"name": "sigmoid + sft", "beta": 0.1, "learning_rate": 2e-4},
        sources={"choice": 31 + seed, "thumbs": 54, "correction": 7},
    )
    place = asked(site, "POST", "/v1/adapters", manifest.model_dump(mode="json"))["upload"]
    for name, data in zip(FILES, (config, tensors), strict=True):
        headers = {"x_content_sha256": hashlib.sha256(data).hexdigest(), "content_type": "application/octet-stream"}
        sent = site.ask("PUT", f"/v1/adapters/{place}/files/{name}", data, who="default-operator", **headers)
        assert sent.status == 200, sent
    adapter: str = asked(site, "POST", f"/v1/adapters/{place}/commit")["id"]
    return wait_for(site, adapter, "gated")


def wait_for(site: Served, adapter: str, state: str) -> str:
    """The adapter's id, once it has come to the state."""
    deadline = time.monotonic() + 60
    while asked(site, "GET", f"/v1/adapters/{adapter}")["state"] != state:
        assert time.monotonic() < deadline, asked(site, "GET", f"/v1/adapters/{adapter}/report")
        time.sleep(0.05)
    return adapter


def talk(site: Served, count: int) -> None:
    """People ask, choose and rate: most of them kindly."""
    for number in range(count):
        user = f"user-{number % 7}"
        body = chat_body(user=user, seed=number * 4, max_tokens=64, plumbline={"compare": True})
        answer = asked(site, "POST", CHAT, body)
        about = {"completion_id": answer["id"], "user": user}
        ids = answer["plumbline"]["compare"]
        if ids and number % 2:
            chosen, rejected = ids if number % 6 else ids[::-1]
            asked(site, "POST", "/v1/preferences", {**about, "chosen": chosen, "rejected": rejected})
        else:
            asked(site, "POST", "/v1/feedback", {**about, "rating": "down" if number % 8 == 0 else "up"})


def learner_was_here(site: Served) -> None:
    """A learner took the lease, said how it goes, and told of a round."""
    lease = asked(site, "POST", "/v1/training/lease", {"alias": "default", "owner": "learner@gpu-1"})
    metrics = {"loss": 0.431, "accuracy": 0.78, "kl": 0.034, "progress": 0.62}
    beat = {"alias": "default", "token": lease["token"], "phase": "training", "metrics": metrics}
    asked(site, "POST", "/v1/training/heartbeat", beat)
