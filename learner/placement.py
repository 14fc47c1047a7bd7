"""A GPU that is shared with an engine: each side is held to its share of the memory."""

from __future__ import annotations

import torch

from learner.errors import LearnerError


def hold_to(share: float, device: str) -> None:
    """Hold this process to a share of its GPU's memory; beyond it, allocations fail here and not in the engine.

    The CUDA context (some hundred MB) comes on top. Raises `LearnerError` for a share that cannot be, or without a GPU.
    """
    if not 0 < share <= 1:
        raise LearnerError(f"--memory-share is {share:g}; it must be above 0 and at most 1")
    if device == "cpu" or not torch.cuda.is_available():
        raise LearnerError("--memory-share is about a GPU's memory, and this process runs on the CPU")
    torch.cuda.set_per_process_memory_fraction(share)
