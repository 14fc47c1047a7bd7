"""The training script's promise to survive being killed."""

from __future__ import annotations

from pathlib import Path

import pytest

STEPS, KILLED_AT = 4, 2


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    """Weights, optimiser, learning rate and batches all come back: the final weights are equal to the last bit."""
    torch = pytest.importorskip("torch")
    from rich.progress import Progress

    from clients.demo.tokenizer import train_tokenizer
    from clients.demo.train import (
        Run,
        Settings,
        load_checkpoint,
        make_batch,
        prepare_pictures,
        save_checkpoint,
        train_step,
    )

    settings = Settings(steps=STEPS, seed=1, scenes=32)
    tokenizer = train_tokenizer()
    with Progress(disable=True) as progress:
        pictures = prepare_pictures(tokenizer, settings.scenes, progress)
    unbroken = Run.start(tokenizer, settings)
    for step in range(STEPS):
        if step == KILLED_AT:
            save_checkpoint(tmp_path, step, settings, unbroken)
        train_step(unbroken, make_batch(step, settings, tokenizer, pictures))

    resumed = Run.start(tokenizer, settings)
    assert load_checkpoint(tmp_path, settings, resumed) == KILLED_AT
    for step in range(KILLED_AT, STEPS):
        train_step(resumed, make_batch(step, settings, tokenizer, pictures))

    for name, value in unbroken.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    with pytest.raises(SystemExit, match="another run"):
        load_checkpoint(tmp_path, Settings(steps=STEPS, seed=2, scenes=32), resumed)
