"""One real engine for all end-to-end tests of a session, and adapters for it that need no training.

`engine_session` starts vLLM once (15 to 60 s) on the demo's model; tests share it and its adapter directory,
so every adapter id may be used once only. `SHAPES_VLM_DIR` names another model directory of the same shape.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from safetensors.numpy import save_file

from server.config import EngineConfig
from server.engine.client import VllmEngine
from server.engine.launcher import EngineProcess

REPOSITORY = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 600.0
MAX_MODEL_LEN = 2048

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class EngineSession:
    """The running engine."""

    url: str
    model: str
    """The base model's served name, and what adapters name as their base."""
    model_dir: Path
    adapters_dir: Path
    """Whatever directory is renamed into it is served by the next request that names it."""
    log: Path


def model_directory() -> Path:
    """The demo model's weights; a test that needs them fails where they are missing."""
    directory = Path(os.environ.get("SHAPES_VLM_DIR", REPOSITORY / "clients" / "demo" / "shapes_vlm")).resolve()
    if not (directory / "model.safetensors").is_file():
        pytest.fail(f"no model in {directory}")
    return directory


def engine_config(model: str, **changes: Any) -> EngineConfig:
    """Settings for the tests' engine; float32, so that log-probabilities can be compared."""
    return EngineConfig.model_validate({"model": model, "dtype": "float32", "max_model_len": MAX_MODEL_LEN} | changes)


@pytest.fixture(scope="session")
def engine_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineSession]:
    """A real engine, warmed up; the same for the whole session."""
    model_dir = model_directory()
    root = tmp_path_factory.mktemp("engine")
    process = EngineProcess(engine_config(str(model_dir)), root / "adapters", root)
    with background_loop() as loop:
        call(loop, process.start())
        try:
            call(loop, _until_ready(process, str(model_dir)))
            yield EngineSession(process.url, str(model_dir), model_dir, root / "adapters", process.log)
        finally:
            call(loop, process.stop())


@contextmanager
def background_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread, for what outlives a single test."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def call(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def _until_ready(process: EngineProcess, model: str) -> None:
    engine = VllmEngine(process.url, model, timeout_s=START_TIMEOUT_S, probe_timeout_s=60)
    exited = asyncio.create_task(process.wait())
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await engine.is_ready():
                if exited.done():
                    pytest.fail(f"the engine ended with {exited.result()}:\n{tail_of(process.log)}")
                await asyncio.sleep(0.3)
        await engine.warm_up()
    except TimeoutError:
        pytest.fail(f"the engine was not ready within {START_TIMEOUT_S:.0f} s:\n{tail_of(process.log)}")
    finally:
        exited.cancel()
        await engine.close()


def tail_of(log: Path, size: int = 4000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no log)"


def write_random_adapter(
    directory: Path, adapter_id: str, base_model: str, scale: float = 0.05, seed: int = 0, *, rank: int = 8
) -> Path:
    """Write a valid PEFT LoRA for the language layers of `base_model` (a directory) and rename it into place.

    Scale 0 makes an adapter that changes nothing; at .05 log-probabilities move visibly, at 1 the model babbles.
    """
    shapes = _language_layer_shapes(Path(base_model))
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for name, (outputs, inputs) in shapes.items():
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = (rng.standard_normal((rank, inputs)) / np.sqrt(inputs)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = (rng.standard_normal((outputs, rank)) * scale).astype(np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in shapes}),
    }
    staging = directory / f".{adapter_id}.tmp"
    staging.mkdir(parents=True)
    save_file(tensors, staging / "adapter_model.safetensors")
    (staging / "adapter_config.json").write_text(json.dumps(config))
    return staging.rename(directory / adapter_id)


def _language_layer_shapes(model_dir: Path) -> dict[str, tuple[int, int]]:
    """Name → (outputs, inputs) of every linear map that the engine wraps for LoRA."""
    text = json.loads((model_dir / "config.json").read_text())["text_config"]
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    queries = text["num_attention_heads"] * text["head_dim"]
    keys = text["num_key_value_heads"] * text["head_dim"]
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    return {
        f"model.language_model.layers.{index}.{name}": shape
        for index in range(text["num_hidden_layers"])
        for name, shape in layer.items()
    }
