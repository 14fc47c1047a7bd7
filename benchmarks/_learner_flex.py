"""The shared prefix by FlexAttention: one call for all groups, blocks that nobody sees are skipped. CUDA's alternative.

Same plan, same result as `learner.attention`; `benchmarks.learner_gpu` measures the two against each other. Compiled on
CUDA. On the CPU it runs uncompiled and forward only, which is all that torch has there.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from learner.attention import PrefixPlan

FLEX_PREFIX: Final = "shared_prefix_flex"


class FlexAttend:
    """Keeps the masks of the pass at hand: every layer asks for the same ones."""

    def __init__(self) -> None:
        self._plan: PrefixPlan | None = None
        self._masks: dict[int | None, BlockMask] = {}
        self._compiled: Any = torch.compile(flex_attention, dynamic=True)

    def __call__(  # noqa: PLR0917 - the order is transformers'
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        prefix_plan: PrefixPlan | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        assert prefix_plan is not None
        run = self._compiled if query.is_cuda else flex_attention
        mask = self._mask(prefix_plan, sliding_window, query.device)
        output = run(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
        return output.transpose(1, 2), None

    def _mask(self, plan: PrefixPlan, window: int | None, device: torch.device) -> BlockMask:
        if plan is not self._plan:
            self._plan, self._masks = plan, {}
        if window not in self._masks:
            self._masks[window] = _block_mask(plan, window, device)
        return self._masks[window]


def _block_mask(plan: PrefixPlan, window: int | None, device: torch.device) -> BlockMask:
    places = torch.cat([block.places for block in plan.blocks])
    segments = torch.cat([block.segments for block in plan.blocks])
    sizes = torch.tensor([block.end - block.start for block in plan.blocks], device=device)
    groups = torch.arange(len(sizes), device=device).repeat_interleave(sizes)
    none = torch.tensor(-1, device=device)
    islands = torch.cat(
        [none.expand(len(block.places)) if block.islands is None else block.islands for block in plan.blocks]
    )

    def may_see(batch: Tensor, head: Tensor, seeing: Tensor, seen: Tensor) -> Tensor:
        distance = places[seeing] - places[seen]
        allowed = (distance >= 0) & ((segments[seen] == 0) | (segments[seen] == segments[seeing]))
        allowed = allowed | ((islands[seeing] >= 0) & (islands[seeing] == islands[seen]))
        if window is not None:
            allowed = allowed & (distance < window)
        return allowed & (groups[seeing] == groups[seen])

    count = len(places)
    return create_block_mask(may_see, None, None, count, count, device=device)


def register() -> None:
    AttentionInterface.register(FLEX_PREFIX, FlexAttend())
    AttentionMaskInterface.register(FLEX_PREFIX, sdpa_mask)
