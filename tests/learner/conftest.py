"""One tiny base model for all tests of the learner, and a server in memory that serves it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from learner.loop import Learner, Options
from learner.workplace import Pace
from server.wire.identity import directory_digest
from tests.learner.fake_server import ALIAS, FakeServer, make_group
from tests.learner.tiny import TARGETS, save_tiny

SETTINGS = {
    "objectives": {"sigmoid": 1.0, "sft": 0.3, "kto": 0.5},
    "rank": 4,
    "alpha": 8,
    "learning_rate": 1e-2,
    "epochs": 2,
    "batch_groups": 4,
    "min_new_signals": 5,
    "target_modules": TARGETS,
    "max_kl": 20.0,
}

MakeLearner = Callable[..., Learner]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Many threads on tiny tensors only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture
def server(base_dir: Path) -> FakeServer:
    """A server whose feed holds twelve groups: eight with a choice, four with thumbs."""
    fake = FakeServer(str(base_dir), directory_digest(base_dir), **SETTINGS)
    for number in range(12):
        fake.tell(make_group(number, fake.base_digest, fake))
    return fake


@pytest.fixture
def make_learner(server: FakeServer, tmp_path: Path) -> MakeLearner:
    def make(
        name: str = "state",
        *,
        once: bool = True,
        at: Callable[[str], None] = lambda point: None,
        stop: threading.Event | None = None,
        lease_ttl_s: float = 60.0,
    ) -> Learner:
        pace = Pace(checkpoint_steps=2, lease_ttl_s=lease_ttl_s)
        options = Options(alias=ALIAS, state=tmp_path / name, once=once, poll_s=0.01, device="cpu", pace=pace)
        return Learner(server.client(), options, stop, at)

    return make
