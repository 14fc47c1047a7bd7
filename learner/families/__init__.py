"""Families of models, by the `model_type` of their configuration. One small file each, one line in the table.

To add one: override in `learner/families/NAME.py` what differs from `Family` (how images are encoded and handed in,
positions, masks), enter it in `FAMILIES`, and give it a tiny configuration in `tests/learner/test_prefix_families.py`,
which compares log-probabilities and gradients with those of separate rows. Its attention must go through transformers'
`AttentionInterface` and hand keywords through.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from learner.errors import LearnerError
from learner.families.base import Family, ImageFeatures, fits
from learner.families.gemma3 import Gemma3, Gemma3Text
from learner.families.idefics import Idefics
from learner.families.llava import Llava
from learner.families.qwen_vl import QwenVl

FAMILIES: Final[Mapping[str, Family]] = {
    "gemma3": Gemma3(),
    "gemma3_text": Gemma3Text(),
    "idefics3": Idefics(),
    "llama": Family(),
    "llava": Llava(),
    "mistral": Family(),
    "qwen2": Family(),
    "qwen2_5_vl": QwenVl(),
    "qwen3": Family(),
    "qwen3_vl": QwenVl(),
    "smolvlm": Idefics(),
}


def family_of(config: Any) -> Family:
    """Raises `LearnerError` for a model that would not be trained exactly."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise LearnerError(f"models of type {kind!r} cannot be trained; these can: {', '.join(sorted(FAMILIES))}")
    family = FAMILIES[kind]
    problem = family.problem(config)
    if problem:
        raise LearnerError(f"this {kind} model cannot be trained: {problem}")
    return family


__all__ = ["FAMILIES", "Family", "ImageFeatures", "family_of", "fits"]
