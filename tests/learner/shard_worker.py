"""What `test_team` starts by torchrun: every family's log-probabilities and gradients on a whole and a sharded base."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from learner.families import family_of
from learner.team import Team, join
from tests.learner.test_prefix_families import TARGETS, backward, shared
from tests.learner.tiny_families import TINY, Tiny


def computed(tiny: Tiny, directory: Path, shards: Team | None, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Adapters with both halves non-zero, in float64."""
    torch.manual_seed(0)
    model = tiny.build().eval().requires_grad_(False).double()
    if shards is not None:
        shards.shard(family_of(model.config).language_model(model.base_model), torch.device("cpu"))
    policy = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)).double().eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return backward(policy, shared(policy, tiny, directory, **options))


def main(out: Path) -> None:
    torch.set_num_threads(1)
    team = join("cpu")
    worst: dict[str, float] = {}
    for name, tiny in TINY.items():
        directory = out / f"{name}-{team.rank}"
        directory.mkdir()
        if tiny.processor is not None:
            tiny.processor().save_pretrained(directory)
        for checkpointing in (False, True):
            values, gradients = computed(tiny, directory, None, checkpointing=checkpointing)
            found, slopes = computed(tiny, directory, team, checkpointing=checkpointing)
            assert slopes.keys() == gradients.keys() and any(float(one.abs().max()) > 0 for one in gradients.values())
            gaps = [(found - values).abs().max(), *((slopes[key] - gradients[key]).abs().max() for key in gradients)]
            worst[f"{name} {checkpointing}"] = max(map(float, gaps))
    if team.rank == 0:
        (out / "worst.json").write_text(json.dumps(worst))
    team.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
