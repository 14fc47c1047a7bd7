"""Shared-prefix log-probabilities: a prompt with its images runs once, all its answers branch off it.

One row of a forward pass is `[prompt and images][answer 1]...[answer G]`. A 4-D boolean mask lets every answer
see the prompt and itself only, and every answer's positions restart behind the prompt, so each log-probability
(and its gradient) equals that of a separate row `[prompt][answer g]`; the tests compare the two. The last token
of an answer predicts nothing and is not fed; logits are computed at completion positions only, in chunks.

Padding of rows to one length is cheaper than running them one by one while rows are short (measured; see
`max_tokens` of `split_rows`), so several groups share a forward pass up to a budget of padded tokens.

Left out: sliding-window attention, and prefixes in which image tokens see each other both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

from learner.vision import ImageFeatures, encoder_outputs

LOGITS_PER_CHUNK: Final = 2**24
"""Logits alive at once: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, its images, and the answers that branch off it. No answer is empty."""

    prompt: tuple[int, ...]
    images: tuple[ImageFeatures, ...]
    answers: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens that are fed."""
        return len(self.prompt) + sum(len(answer) - 1 for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Packed:
    """Rows as tensors. B rows of L tokens, N predicted tokens in all."""

    input_ids: Tensor  # (B, L)
    attention_mask: Tensor  # (B, 1, L, L), True = may see
    position_ids: Tensor  # (3, B, L) with M-RoPE, else (B, L)
    images: tuple[ImageFeatures, ...]
    sources: Tensor  # (N,) index into B*L of the hidden state that predicts each token
    targets: Tensor  # (N,)
    lengths: tuple[int, ...]  # tokens of each answer, rows in order


def split_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut row indices, in order, into micro-batches of at most `max_tokens` padded tokens (one row at least)."""
    parts: list[list[int]] = []
    longest = 0
    for index, length in enumerate(lengths):
        longest = max(longest, length)
        if parts and longest * (len(parts[-1]) + 1) <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
            longest = length
    return parts


class PrefixModel:
    """Log-probabilities of answers under a vision-language model. `model` may be wrapped by PEFT."""

    def __init__(self, model: Any, logits_per_chunk: int = LOGITS_PER_CHUNK) -> None:
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._body = core.model
        self._head = core.get_output_embeddings()
        self._image_token_id = core.config.image_token_id
        self._device = self._head.weight.device
        self._chunk = max(1, logits_per_chunk // self._head.weight.shape[0])

    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per-token log-probabilities, one tensor (tokens,) for each answer, rows in order."""
        packed = self.pack(rows)
        flat = self._token_logprobs(self.hidden(packed), packed.targets)
        return list(torch.split(flat, list(packed.lengths)))

    def pack(self, rows: Sequence[Row]) -> Packed:
        width = max(row.length for row in rows)
        pad = 0 if self._image_token_id != 0 else 1
        ids: list[list[int]] = []
        segments: list[list[int]] = []
        positions: list[Tensor] = []
        sources: list[int] = []
        targets: list[int] = []
        for index, row in enumerate(rows):
            tokens, segment = list(row.prompt), [0] * len(row.prompt)
            for number, answer in enumerate(row.answers, 1):
                first = len(tokens)
                tokens += answer[:-1]
                segment += [number] * (len(answer) - 1)
                sources.append(index * width + len(row.prompt) - 1)
                sources += range(index * width + first, index * width + len(tokens))
                targets += answer
            missing = width - len(tokens)
            ids.append(tokens + [pad] * missing)
            segments.append(segment + [-1] * missing)
            positions.append(self._positions(row, missing))
        return Packed(
            input_ids=torch.tensor(ids, device=self._device),
            attention_mask=_mask(torch.tensor(segments, device=self._device)),
            position_ids=torch.stack(positions, dim=-2).to(self._device),
            images=tuple(image for row in rows for image in row.images),
            sources=torch.tensor(sources, device=self._device),
            targets=torch.tensor(targets, device=self._device),
            lengths=tuple(len(answer) for row in rows for answer in row.answers),
        )

    def _positions(self, row: Row, missing: int) -> Tensor:
        """Positions of one row, (3, L) or (L,): every answer restarts behind the prompt."""
        prompt = torch.tensor([row.prompt])
        if hasattr(self._body, "get_rope_index"):
            is_image = (prompt == self._image_token_id).int()
            grids = torch.stack([image.grid for image in row.images]) if row.images else None
            start, _ = self._body.get_rope_index(prompt, mm_token_type_ids=is_image, image_grid_thw=grids)
            start = start[:, 0]  # (3, P)
        else:
            start = torch.arange(len(row.prompt))
        behind = int(start.max()) + 1
        steps = [torch.arange(len(answer) - 1) + behind for answer in row.answers]
        rest = torch.cat([*steps, torch.zeros(missing, dtype=torch.long)])
        return torch.cat([start, rest.expand(*start.shape[:-1], -1)], dim=-1)

    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden states that predict each target, (N, hidden)."""
        output = self._body(
            input_ids=packed.input_ids,
            attention_mask=packed.attention_mask,
            position_ids=packed.position_ids,
            mm_encoder_outputs=encoder_outputs(packed.images) if packed.images else None,
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        return states.flatten(0, 1)[packed.sources]

    def log_distributions(self, hidden: Tensor) -> Tensor:
        """(N, hidden) → (N, vocabulary), in float32 at least."""
        logits = self._head(hidden)
        return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)

    def _token_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        size = self._chunk
        if len(targets) <= size:
            return self._chosen(hidden, targets)
        # Chunks are recomputed in the backward pass, so that their logits never live at the same time.
        parts = zip(torch.split(hidden, size), torch.split(targets, size), strict=True)
        return torch.cat([checkpoint(self._chosen, part, goal, use_reentrant=False) for part, goal in parts])

    def _chosen(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.log_distributions(hidden).gather(-1, targets[:, None])[:, 0]


def _mask(segments: Tensor) -> Tensor:
    """(B, L) segment numbers → (B, 1, L, L). Segment 0 is the prompt, -1 padding, which sees only itself."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen, seeing = segments[:, None, :], segments[:, :, None]
    allowed = causal & ((seen == 0) | (seen == seeing)) & (seeing >= 0)
    return (allowed | torch.eye(length, dtype=torch.bool, device=segments.device))[:, None]


def padded(logprobs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Answers of different lengths as (A, T) with zeros, and their mask (A, T)."""
    values = pad_sequence(list(logprobs), batch_first=True)
    lengths = torch.tensor([len(answer) for answer in logprobs], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device)[None] < lengths[:, None]
