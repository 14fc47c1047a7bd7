"""The GPU benchmark without a GPU: that it runs, and that its two ways of attention agree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import learner
from benchmarks import _learner_flex as flex
from benchmarks._learner_world import SHAPES
from benchmarks.learner_gpu import step_flops
from learner.prefix import PrefixModel, Row
from tests.learner.tiny import tiny_model
from tests.learner.tiny_families import TINY

ROWS = [
    Row((2, *range(30, 42)), (), ((35, 36, 37), (35, 38), (9, 8, 7, 6, 5, 4, 3, 12))),
    Row((2, 40), (), ((35,), (36, 37))),
]


@pytest.mark.parametrize("name", ["qwen3_vl", "mistral", "gemma3"])
@torch.no_grad()
def test_flex_attention_sees_what_two_phases_see(name: str) -> None:
    """Windows and groups included; FlexAttention has a forward pass only on the CPU."""
    model = (tiny_model() if name == "qwen3_vl" else TINY[name].build()).eval()
    flex.register()
    expected = torch.cat(PrefixModel(model).logprobs(ROWS))
    found = torch.cat(PrefixModel(model, attention=flex.FLEX_PREFIX).logprobs(ROWS))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_flops_are_those_of_the_matrices_for_short_prompts() -> None:
    """Four for each weight and token (no gradient of frozen weights), plus the head at the answers' tokens."""
    shape = SHAPES["small"]
    tokens = shape.image_tokens + 2 + shape.question_tokens + 2 * (shape.answer_tokens - 1)
    plain = 4 * shape.layer_parameters * tokens + 4 * 2 * shape.answer_tokens * shape.hidden * shape.vocabulary
    assert plain < step_flops(shape, 1, 2) < 1.15 * plain
    assert step_flops(shape, 3, 2) == 3 * step_flops(shape, 1, 2)


@pytest.mark.slow
def test_the_script_runs_on_the_cpu() -> None:
    """Both sides, both methods, equal losses; the last line is the result."""
    root = Path(learner.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.learner_gpu", "--device", "cpu", "--tiny", "--quick"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1].removeprefix("RESULT "))
    assert result["model"] == "tiny" and result["device"] == "CPU"
    assert result["dpo_loss_difference"] < 1e-4 and result["grpo_loss_difference"] < 1e-4
    assert result["mfu"] > 0
