"""The engine's command line and environment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from server.config import LORA_TARGET_MODULES, EngineConfig
from server.engine.launcher import (
    Device,
    EngineProcess,
    command_line,
    empty_adapter,
    environment,
    free_port,
    installed_device,
)
from server.engine.port import EngineError

CONFIG = EngineConfig(model="some/model", max_loras=5, max_lora_rank=32, extra_args=("--seed", "3"))


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def test_it_listens_on_loopback_under_the_models_own_name() -> None:
    """`--model` is the configuration's string unchanged, and no other served name is given."""
    command = command_line(CONFIG, Device.CPU, 1234, 4)
    assert (option(command, "--host"), option(command, "--port")) == ("127.0.0.1", "1234")
    assert option(command, "--model") == "some/model"
    assert "--served-model-name" not in command
    assert command[0] == sys.executable


def test_lora_wraps_the_language_layers_and_never_the_head() -> None:
    """With `lm_head` wrapped, concurrent scorings kill the engine."""
    command = command_line(CONFIG, Device.CPU, 1234, 4)
    assert "--enable-lora" in command
    assert (option(command, "--max-loras"), option(command, "--max-lora-rank")) == ("64", "32")
    start = command.index("--lora-target-modules") + 1
    assert tuple(command[start : start + len(LORA_TARGET_MODULES)]) == LORA_TARGET_MODULES
    assert "lm_head" not in command


def test_defaults_of_the_model_and_logs_of_prompts_are_off() -> None:
    """Sampling is what was asked for; prompts do not reach a log; images are bounded."""
    command = command_line(CONFIG, Device.CPU, 1234, 4)
    assert option(command, "--generation-config") == "vllm"
    assert "--no-enable-log-requests" in command
    assert json.loads(option(command, "--limit-mm-per-prompt")) == {"image": 4, "video": 0}
    assert command[-2:] == ["--seed", "3"]


def test_each_device_gets_its_own_settings() -> None:
    """Memory share on CUDA; cache size, threads and no extra process on CPU."""
    assert "--gpu-memory-utilization" in command_line(CONFIG, Device.CUDA, 1, 1)
    assert "--gpu-memory-utilization" not in command_line(CONFIG, Device.CPU, 1, 1)
    cpu = environment(CONFIG, Device.CPU, Path("adapters"), {}, cores=8)
    assert (cpu["VLLM_CPU_KVCACHE_SPACE"], cpu["OMP_NUM_THREADS"]) == ("1", "7")
    assert cpu["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    cuda = environment(CONFIG, Device.CUDA, Path("adapters"), {}, cores=8)
    assert not {"OMP_NUM_THREADS", "VLLM_ENABLE_V1_MULTIPROCESSING", "TORCH_COMPILE_DISABLE"} & set(cuda)


@pytest.mark.parametrize(("threads", "cores", "expected"), [(0, 1, "1"), (0, 2, "1"), (0, 16, "15"), (4, 16, "4")])
def test_a_core_is_left_to_the_server(threads: int, cores: int, expected: str) -> None:
    """Unless the number of threads is given."""
    config = EngineConfig(cpu_threads=threads)
    assert environment(config, Device.CPU, Path("adapters"), {}, cores)["OMP_NUM_THREADS"] == expected


def test_adapters_are_pulled_from_the_directory(tmp_path: Path) -> None:
    """By vLLM's own resolver, from an absolute path."""
    variables = environment(CONFIG, Device.CPU, tmp_path / "adapters", {}, cores=2)
    assert variables["VLLM_PLUGINS"] == "lora_filesystem_resolver"
    assert variables["VLLM_LORA_RESOLVER_CACHE_DIR"] == str((tmp_path / "adapters").resolve())
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_secrets_and_development_routes_stay_out() -> None:
    """Our own variables are not inherited, others are; development routes cannot be switched on by them."""
    inherited = {"PLUMBLINE_SECRET": "hidden", "PATH": "/bin", "VLLM_SERVER_DEV_MODE": "1"}
    variables = environment(CONFIG, Device.CPU, Path("adapters"), inherited, cores=2)
    assert variables["PATH"] == "/bin"
    assert not {"PLUMBLINE_SECRET", "VLLM_SERVER_DEV_MODE"} & set(variables)


def test_the_port_is_chosen_once(tmp_path: Path) -> None:
    """A free one, or the given one; the URL stays the same over restarts."""
    assert free_port() > 0
    process = EngineProcess(EngineConfig(port=4321), tmp_path, tmp_path)
    assert process.url == "http://127.0.0.1:4321"
    assert EngineProcess(EngineConfig(), tmp_path, tmp_path).url.startswith("http://127.0.0.1:")
    assert process.pid is None


async def test_an_environment_without_vllm_is_refused(tmp_path: Path) -> None:
    """In one line, before anything is started."""
    with pytest.raises(EngineError, match="cannot be started"):
        await installed_device(str(tmp_path / "python"))
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\necho none\n")
    silent.chmod(0o755)
    with pytest.raises(EngineError, match="not installed"):
        await EngineProcess(EngineConfig(python=str(silent)), tmp_path, tmp_path).start()


def test_replicas_share_the_machine(tmp_path: Path) -> None:
    """Cores and GPU memory are divided; ports follow each other, and each has a log of its own."""
    config = EngineConfig(replicas=3, port=4321, gpu_memory_utilization=0.6)
    assert environment(config, Device.CPU, tmp_path, {}, cores=10)["OMP_NUM_THREADS"] == "3"
    assert environment(config, Device.CPU, tmp_path, {}, cores=2)["OMP_NUM_THREADS"] == "1"
    command = command_line(config, Device.CUDA, 1, 1)
    assert command[command.index("--gpu-memory-utilization") + 1] == "0.2"
    processes = [EngineProcess(config, tmp_path, tmp_path, number=number) for number in range(3)]
    assert [process.url.rpartition(":")[2] for process in processes] == ["4321", "4322", "4323"]
    assert [process.log.name for process in processes] == ["engine.log", "engine-1.log", "engine-2.log"]


def test_a_quorum_must_be_possible() -> None:
    """And no replica is counted twice."""
    assert EngineConfig(urls=("http://a", "http://b"), quorum=2).quorum == 2
    with pytest.raises(ValidationError, match="there are 1 replicas"):
        EngineConfig(quorum=2)
    with pytest.raises(ValidationError, match="twice"):
        EngineConfig(urls=("http://a", "http://a"))


def test_the_empty_adapter_is_a_whole_file() -> None:
    """Its header names every byte that follows, and they are zeros."""
    files = empty_adapter("some/model")
    tensors = files["adapter_model.safetensors"]
    length = int.from_bytes(tensors[:8], "little")
    header, data = json.loads(tensors[8 : 8 + length]), tensors[8 + length :]
    assert data == bytes(max(one["data_offsets"][1] for one in header.values()))
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "some/model"
