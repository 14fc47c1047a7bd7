"""The pooling scorer on a real vLLM that serves a vision-language reward model: the demo's with a scalar head."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from PIL import Image as Pillow
from safetensors.numpy import load_file, save_file

from reward.types import Candidate, Image, Message, Prompt
from server.config import EngineConfig
from server.config.scorers import PoolingConfig, ScorerConfig
from server.engine.guard import end_group
from server.engine.launcher import LOOPBACK, Device, environment, free_port
from server.scorers.factory import ScorerFactory
from tests.engine_fixture import START_TIMEOUT_S, model_directory, tail_of

pytestmark = pytest.mark.slow


def write_reward_model(directory: Path) -> None:
    """The demo model's body; a head with random weights in place of its vocabulary."""
    shutil.copytree(model_directory(), directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    hidden = config["text_config"]["hidden_size"]
    labels = {"num_labels": 1, "id2label": {"0": "score"}, "label2id": {"score": 0}}
    path.write_text(json.dumps(config | {"architectures": ["Qwen3VLForSequenceClassification"]} | labels))
    tensors = load_file(directory / "model.safetensors")
    tensors["score.weight"] = np.random.default_rng(0).standard_normal((1, hidden)).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def reward_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL. The model's name is `rm`."""
    root = tmp_path_factory.mktemp("pooling")
    write_reward_model(root / "rm")
    (root / "adapters").mkdir()  # the launcher's variables name it, and vLLM insists on it
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(root / "rm")),
        *("--served-model-name", "rm", "--runner", "pooling", "--convert", "classify", "--dtype", "float32"),
        *("--host", LOOPBACK, "--port", str(port), "--max-model-len", "512", "--skip-mm-profiling"),
        *("--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})),
    ]
    settings = EngineConfig(model=str(root / "rm"), cpu_threads=1)
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment(settings, Device.CPU, root / "adapters", os.environ, 2),
            start_new_session=True,
        )
        try:
            asyncio.run(_until_ready(f"http://{LOOPBACK}:{port}", process, root / "log"))
            yield f"http://{LOOPBACK}:{port}"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            end_group(process.pid)
            process.wait()


async def _until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_TIMEOUT_S):
        while True:
            if process.poll() is not None:
                pytest.fail(f"the engine ended with {process.returncode}:\n{tail_of(log)}")
            try:
                async with session.get(f"{url}/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.5)


def about(colour: str) -> Prompt:
    buffer = io.BytesIO()
    Pillow.new("RGB", (96, 96), colour).save(buffer, format="PNG")
    image = Image(sha256(buffer.getvalue()).hexdigest(), "image/png", buffer.getvalue())
    return Prompt((Message("user", (image, "Describe the picture.")),))


async def test_scores_depend_on_answer_and_image(reward_engine: str) -> None:
    """One raw number each, the same again and on both routes, another for another image or answer."""
    answers = [
        Candidate(place, "a", text, (), (), "stop") for place, text in enumerate(["A red circle.", "Nothing is there."])
    ]
    found = {}
    for route in ("classify", "pooling"):
        settings = PoolingConfig(url=reward_engine, model="rm", route=route, cache_size=0)
        factory = ScorerFactory(None)
        scorer = factory.build(ScorerConfig(kind="pooling", pooling=settings, timeout_s=120))
        try:
            found[route] = [*await scorer.score(about("red"), answers), *await scorer.score(about("blue"), answers)]
            again = await scorer.score(about("red"), answers)
        finally:
            await factory.close()
        assert again == pytest.approx(found[route][:2], abs=1e-3)
    assert found["classify"] == pytest.approx(found["pooling"], abs=1e-3)
    assert len({round(value, 3) for value in found["classify"] if value is not None}) == 4
