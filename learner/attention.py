"""Attention over a packed pass in which answers share their prompt: exact, without a mask over everything.

The tokens of all groups lie one behind the other in one row: `[prompt][answer 1]...[answer G]`, then the next group.
Every group is attended in two phases: its prompt causally by itself, then its answers' tokens to the prompt and their
own answer. So no token is padding, groups cost nothing to each other, and the largest mask is that of one group's
answers. Two additions, for families that have them: a sliding window, counted in tokens of the separate row that an
answer would be in, and images whose tokens see each other both ways.

Two phases were chosen by measurement (two CPU cores, forward and backward, 6 heads of 64, 2 of keys, milliseconds;
dense: one padded call with a boolean mask; each: every answer by itself on a copy of the prompt's keys):

    groups x (prompt + answers)    two phases   dense   each
    4 x (274 + 2 x 31)                  15.6    14.5    19.4
    2 x (274 + 8 x 31)                  13.8    16.8    17.7
    1 x (1,040 + 2 x 127)               29.5    44.7    37.2

The function is entered in transformers' table of attention functions, and reads what belongs to whom from the keyword
`prefix_plan`, which models hand through to it. Without a plan it is transformers' own sdpa.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED_PREFIX: Final = "shared_prefix"


@dataclass(slots=True)
class Block:
    """One group's tokens `start:end` of the pass; those before `behind` are its prompt."""

    start: int
    behind: int
    end: int
    places: Tensor  # (end - start,) index of each token in its separate row, prompt included
    segments: Tensor  # (end - start,) 0 for the prompt, then 1, 2, ... for the answers
    islands: Tensor | None  # (end - start,) number of the image that sees itself both ways, else -1
    _masks: dict[int | None, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)

    def masks(self, window: int | None) -> tuple[Tensor | None, Tensor | None]:
        """(P, P) for the prompt, None where it is plainly causal; (S, P + S) for the answers, None without tokens."""
        if window not in self._masks:
            prompt = self.behind - self.start
            reaches = window is not None and window < prompt
            plain = self.islands is None and not reaches
            whole = self._mask(slice(0, prompt), slice(0, prompt), window) if not plain else None
            rest = slice(prompt, self.end - self.start)
            answers = self._mask(rest, slice(0, self.end - self.start), window) if self.end > self.behind else None
            self._masks[window] = whole, answers
        return self._masks[window]

    def _mask(self, seeing: slice, seen: slice, window: int | None) -> Tensor:
        """True = may see."""
        distance = self.places[seeing, None] - self.places[None, seen]
        owner = self.segments[None, seen]
        allowed = (distance >= 0) & ((owner == 0) | (owner == self.segments[seeing, None]))
        if self.islands is not None:
            island = self.islands[seeing, None]
            allowed |= (island >= 0) & (island == self.islands[None, seen])
        return allowed if window is None else allowed & (distance < window)


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """What belongs to whom in one packed pass."""

    blocks: tuple[Block, ...]

    @property
    def sizes(self) -> list[int]:
        """Tokens of each group."""
        return [block.end - block.start for block in self.blocks]

    @property
    def phases(self) -> list[int]:
        """Tokens of each group's prompt and of its answers."""
        return [size for block in self.blocks for size in (block.behind - block.start, block.end - block.behind)]


def register() -> None:
    """Make the function known to transformers under `SHARED_PREFIX`."""
    AttentionInterface.register(SHARED_PREFIX, attend)
    AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)


def attend(  # noqa: PLR0917 - the order is transformers'
    module: torch.nn.Module,
    query: Tensor,  # (1, heads, N, size)
    key: Tensor,  # (1, key heads, N, size)
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    prefix_plan: PrefixPlan | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """(1, N, heads, size), as transformers wants it."""
    if prefix_plan is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
        return output, None
    # Split, not sliced: the gradient of every slice would be a tensor of the whole pass.
    queries = iter(torch.split(query, prefix_plan.phases, dim=2))
    sizes = prefix_plan.sizes
    groups = zip(torch.split(key, sizes, dim=2), torch.split(value, sizes, dim=2), strict=True)
    parts = []
    for block, (keys, values) in zip(prefix_plan.blocks, groups, strict=True):
        prompt = block.behind - block.start
        prompt_mask, answers_mask = block.masks(sliding_window)
        parts.append(
            scaled_dot_product_attention(
                next(queries),
                keys[:, :, :prompt],
                values[:, :, :prompt],
                attn_mask=prompt_mask,
                is_causal=prompt_mask is None,
                scale=scaling,
                enable_gqa=True,
            )
        )
        answers = next(queries)
        if answers_mask is not None:
            parts.append(
                scaled_dot_product_attention(
                    answers, keys, values, attn_mask=answers_mask, scale=scaling, enable_gqa=True
                )
            )
    return torch.cat(parts, dim=2).transpose(1, 2), None
