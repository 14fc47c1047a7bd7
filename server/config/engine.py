"""The vLLM engine."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from server.config.base import Seconds, Section, Share

LORA_TARGET_MODULES = (
    "qkv_proj", "o_proj", "gate_up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj",
)  # fmt: skip
"""Modules that the engine wraps for LoRA. `lm_head` is left out: wrapped, concurrent scorings kill the engine."""


class EngineConfig(Section):
    """The vLLM engine: started here (`urls` empty), or replicas that already run."""

    urls: tuple[str, ...] = ()
    """Base URLs of replicas that already run. Empty: the server starts `replicas` engines itself."""
    replicas: int = Field(1, ge=1, le=64)
    """Engines that the server starts and supervises (`urls` empty). They share the machine: `gpu_memory_utilization`
    and the cores are divided among them."""
    quorum: int = Field(0, ge=0)
    """Replicas that must be in and proven with an adapter before it gets traffic; 0: all that are in."""
    affinity_factor: float = Field(2.0, ge=1)
    """Requests with the same image or first question go to the same replica, whose caches hold it, unless that would
    give it more than this many times the outstanding tokens of the least loaded one. 1: always the least loaded."""
    model: str = "clients/demo/shapes_vlm"
    """Directory or Hugging Face name of the base model, as given to the engine's `--model`."""
    vision: bool | None = None
    """Whether the model takes images; without it, as the model's files say, and true where they are not at hand."""
    python: str = ""
    """Interpreter of the environment that holds vLLM; empty: the server's own."""
    port: int = Field(0, ge=0, le=65535)
    """Loopback port of the first started engine, the others follow; 0 takes free ones."""
    dtype: str = "auto"
    """Weight type, as vLLM names it."""
    max_model_len: int = Field(0, ge=0)
    """Longest prompt plus answer, in tokens; 0: what the model knows and the memory holds."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences that the engine runs at once."""
    max_loras: int = Field(6, ge=1)
    """Adapters resident at once: active + previous + canary + staged + ephemeral."""
    cpu_lora_slots: int = Field(64, ge=2)
    """Adapters resident at once on a CPU engine, plus one. vLLM's CPU kernels read the last slot for requests without
    an adapter that share a batch with others, so an adapter that changes nothing is kept there (CPU only)."""
    max_lora_rank: int = Field(16, ge=1)
    """Largest adapter rank."""
    gpu_memory_utilization: Share = 0.6
    """Share of the GPU that the started engines may take together (CUDA only)."""
    cpu_kv_cache_gb: int = Field(1, ge=1)
    """Size of the key-value cache in GiB (CPU only)."""
    cpu_threads: int = Field(0, ge=0)
    """Threads of each CPU engine; 0: all cores but one, divided among the replicas, at least one."""
    extra_args: tuple[str, ...] = ()
    """Further command-line arguments for vLLM."""
    start_timeout_s: Seconds = 600.0
    """How long a start may take before it counts as failed."""
    probe_interval_s: Seconds = 5.0
    """Pause between two readiness probes (one generated token each)."""
    probe_timeout_s: Seconds = 20.0
    """A probe that takes longer has failed; three failures in a row restart a supervised engine."""

    @model_validator(mode="after")
    def _quorum_can_be_met(self) -> Self:
        count = len(self.urls) or self.replicas
        if len(set(self.urls)) != len(self.urls):
            raise ValueError("engine.urls names a replica twice")
        if self.quorum > count:
            raise ValueError(f"engine.quorum is {self.quorum}, but there are {count} replicas")
        return self
