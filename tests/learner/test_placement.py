"""What a placement needs is said in one line when it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from learner.errors import LearnerError
from learner.loop import Learner, Options
from learner.placement import hold_to
from tests.learner.conftest import ALIAS
from tests.learner.fake_server import FakeServer


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_of_memory_is_a_share(share: float) -> None:
    """Above 0, at most 1."""
    with pytest.raises(LearnerError, match="at most 1"):
        hold_to(share, "cuda")


def test_a_share_of_memory_needs_a_gpu() -> None:
    """On the CPU there is nothing that it could hold."""
    with pytest.raises(LearnerError, match="runs on the CPU"):
        hold_to(0.3, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_beyond_its_share_the_learner_fails_and_not_the_engine() -> None:
    """An allocation within the share is made, one beyond it is refused."""
    total = torch.cuda.get_device_properties(0).total_memory
    hold_to(0.1, "cuda")
    torch.empty(total // 20, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(total // 5, dtype=torch.uint8, device="cuda")
    hold_to(1.0, "cuda")


def test_a_sharded_base_needs_a_team(server: FakeServer, tmp_path: Path) -> None:
    """One process has nobody to share it with."""
    options = Options(alias=ALIAS, state=tmp_path / "state", once=True, device="cpu", shard_base=True)
    with pytest.raises(LearnerError, match="torchrun"):
        Learner(server.client(), options).run()
