"""Shared-prefix log-probabilities: a prompt with its images runs once, all its answers branch off it.

A pass lays the tokens of several groups one behind the other, `[prompt and images][answer 1]...[answer G]`, without
padding. Attention (`learner.attention`) lets every answer see its prompt and itself only, and every answer's positions
restart behind the prompt, so each log-probability (and its gradient) equals that of a separate row
`[prompt][answer g]`; the tests compare the two for every family (`learner.families`). The last token of an answer
predicts nothing and is not fed; logits are computed at completion positions only, in chunks. What an objective asks of
the whole distribution (`entropy`, `reference_kl`, `end_ratio`) comes from the same hidden states, in chunks that are
made again in the backward pass.

With `checkpointing`, decoder layers keep their inputs only and run again in the backward pass: more time, less memory,
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from learner.attention import SHARED_PREFIX, Block, PrefixPlan, register
from learner.families import ImageFeatures, family_of

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
    """Rows as tensors: N tokens in all, T of them predicted."""

    input_ids: Tensor  # (1, N)
    position_ids: Tensor  # (3, 1, N) with M-RoPE, else (1, N)
    plan: PrefixPlan
    images: tuple[ImageFeatures, ...]
    sources: Tensor  # (T,) index into N of the hidden state that predicts each token
    targets: Tensor  # (T,)
    lengths: tuple[int, ...]  # tokens of each answer, rows in order


def split_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Cut row indices, in order, into micro-batches of at most `max_tokens` tokens (one row at least)."""
    parts: list[list[int]] = []
    total = 0
    for index, length in enumerate(lengths):
        total += length
        if parts and total <= max_tokens:
            parts[-1].append(index)
        else:
            parts.append([index])
            total = length
    return parts


class PrefixModel:
    """Log-probabilities of answers under a language model that may see images. `model` may be wrapped by PEFT.

    Takes the attention of the language model over. Raises `LearnerError` for a family that is not known.
    """

    def __init__(
        self,
        model: Any,
        logits_per_chunk: int = LOGITS_PER_CHUNK,
        *,
        checkpointing: bool = False,
        attention: str = SHARED_PREFIX,
    ) -> None:
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._family = family_of(core.config)
        self._body = core.model
        self._head = core.get_output_embeddings()
        self.image_token_id = self._family.image_token_id(core.config)
        self.device = self._head.weight.device
        self._chunk = max(1, logits_per_chunk // self._head.weight.shape[0])
        register()
        language_model = self._family.language_model(self._body)
        language_model.set_attn_implementation(attention)
        if checkpointing:
            core.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in language_model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = checkpointing  # of the layer alone: what is in it stays without dropout

    def logprobs(self, rows: Sequence[Row]) -> list[Tensor]:
        """Per-token log-probabilities, one tensor (tokens,) for each answer, rows in order."""
        packed = self.pack(rows)
        return self.logprobs_at(self.hidden(packed), packed)

    def logprobs_at(self, hidden: Tensor, packed: Packed) -> list[Tensor]:
        """The same of hidden states, (T, hidden), that are there already."""
        return list(torch.split(self._token_logprobs(hidden, packed.targets), list(packed.lengths)))

    def entropy(self, hidden: Tensor) -> Tensor:
        """Entropy of the distribution at each hidden state, (T, hidden) → (T,), in nats, with gradient."""
        return torch.cat([checkpoint(self._entropy, part, use_reentrant=False) for part in self._parts(hidden)])

    def reference_kl(
        self, hidden: Tensor, reference: Tensor, standing_in: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Tensor:
        """KL(reference ‖ policy) at each hidden state, both (T, hidden), → (T,), in nats; gradient for the policy's.

        `standing_in`: inside, the head is the reference's; entered only where the head may differ.
        """
        inside = nullcontext if _is_frozen(self._head) else standing_in
        return torch.cat(
            [
                checkpoint(self._reference_kl, part, other, inside, use_reentrant=False)
                for part, other in zip(self._parts(hidden), self._parts(reference), strict=True)
            ]
        )

    def ratio_of(
        self,
        tokens: Sequence[int],
        hidden: Tensor,
        reference: Tensor,
        standing_in: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Tensor:
        """Log-probability that the next is one of these tokens, less the reference's; else as `reference_kl`."""
        inside = nullcontext if _is_frozen(self._head) else standing_in
        index = torch.tensor(tokens, device=self.device)
        return torch.cat(
            [
                checkpoint(self._ratio_of, index, part, other, inside, use_reentrant=False)
                for part, other in zip(self._parts(hidden), self._parts(reference), strict=True)
            ]
        )

    def pack(self, rows: Sequence[Row]) -> Packed:
        tokens: list[int] = []
        positions: list[Tensor] = []
        blocks: list[Block] = []
        sources: list[int] = []
        targets: list[int] = []
        for row in rows:
            start, behind = len(tokens), len(tokens) + len(row.prompt)
            tokens += row.prompt
            for answer in row.answers:
                first = len(tokens)
                tokens += answer[:-1]
                sources += [behind - 1, *range(first, len(tokens))]
                targets += answer
            positions.append(self._positions(row))
            blocks.append(self._block(row, start, behind))
        return Packed(
            input_ids=torch.tensor([tokens], device=self.device),
            position_ids=torch.cat(positions, dim=-1).unsqueeze(-2).to(self.device),
            plan=PrefixPlan(tuple(blocks)),
            images=tuple(image for row in rows for image in row.images),
            sources=torch.tensor(sources, device=self.device),
            targets=torch.tensor(targets, device=self.device),
            lengths=tuple(len(answer) for row in rows for answer in row.answers),
        )

    def _block(self, row: Row, start: int, behind: int) -> Block:
        fed = [len(answer) - 1 for answer in row.answers]
        places = torch.cat([torch.arange(len(row.prompt)), *(torch.arange(count) + len(row.prompt) for count in fed)])
        segments = torch.arange(len(fed) + 1).repeat_interleave(torch.tensor([len(row.prompt), *fed]))
        islands = None
        if self._family.sees_images_both_ways and row.images:
            islands = self._islands(row.prompt, row.length).to(self.device)
        return Block(start, behind, start + row.length, places.to(self.device), segments.to(self.device), islands)

    def _islands(self, prompt: Sequence[int], length: int) -> Tensor:
        """(length,) which unbroken run of placeholders a token is in, -1 for none."""
        result = torch.full((length,), -1)
        first = 0
        for number, (token, run) in enumerate(groupby(prompt)):
            count = len(list(run))
            if token == self.image_token_id:
                result[first : first + count] = number
            first += count
        return result

    def _positions(self, row: Row) -> Tensor:
        """Positions of one row, (3, L) or (L,): every answer restarts behind the prompt."""
        start = self._family.positions(self._body, torch.tensor(row.prompt), row.images)
        behind = int(start.max()) + 1
        steps = torch.cat([torch.arange(len(answer) - 1) + behind for answer in row.answers])
        return torch.cat([start, steps.expand(*start.shape[:-1], -1)], dim=-1)

    def hidden(self, packed: Packed) -> Tensor:
        """Last hidden states that predict each target, (T, hidden)."""
        output = self._body(
            input_ids=packed.input_ids,
            # Four-dimensional masks are handed through untouched; ours is in the plan.
            attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.device),
            position_ids=packed.position_ids,
            use_cache=False,
            prefix_plan=packed.plan,
            **(self._family.encoder_outputs(packed.images) if packed.images else {}),
        )
        states: Tensor = output.last_hidden_state
        return states[0, packed.sources]

    def log_distributions(self, hidden: Tensor) -> Tensor:
        """(N, hidden) → (N, vocabulary), in float32 at least."""
        logits = self._head(hidden)
        return torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)

    def _token_logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        if _is_frozen(self._head):
            chosen: Tensor = _FrozenHead.apply(hidden, targets, self._head, self._chunk)  # type: ignore[no-untyped-call]
            return chosen
        # An adapted head needs its own gradient: chunks are computed again in the backward pass instead.
        parts = zip(self._parts(hidden), self._parts(targets), strict=True)
        return torch.cat([checkpoint(self._chosen, part, goal, use_reentrant=False) for part, goal in parts])

    def _parts(self, of_tokens: Tensor) -> Iterable[Tensor]:
        """So many tokens at a time that their logits are one chunk."""
        return torch.split(of_tokens, self._chunk)

    def _chosen(self, hidden: Tensor, targets: Tensor) -> Tensor:
        return self.log_distributions(hidden).gather(-1, targets[:, None])[:, 0]

    def _entropy(self, hidden: Tensor) -> Tensor:
        found = self.log_distributions(hidden)
        return -(found.exp() * found).sum(-1)

    def _reference_kl(
        self, hidden: Tensor, reference: Tensor, inside: Callable[[], AbstractContextManager[None]]
    ) -> Tensor:
        with torch.no_grad(), inside():
            other = self.log_distributions(reference)
        return (other.exp() * (other - self.log_distributions(hidden))).sum(-1)

    def _ratio_of(
        self, tokens: Tensor, hidden: Tensor, reference: Tensor, inside: Callable[[], AbstractContextManager[None]]
    ) -> Tensor:
        with torch.no_grad(), inside():
            other = self.log_distributions(reference)[:, tokens].logsumexp(-1)
        return self.log_distributions(hidden)[:, tokens].logsumexp(-1) - other


def _is_frozen(head: torch.nn.Module) -> bool:
    return type(head) is torch.nn.Linear and not head.weight.requires_grad


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities of targets, (T, hidden) → (T,), whose logits live for one chunk only and are made once.

    The gradient of log p(y) by a hidden state is W[y] − Σ_v p(v) W[v]: one vector for each token, known in the forward
    pass. The backward pass scales it, and needs neither the logits nor a second product with the head.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, targets: Tensor, head: torch.nn.Linear, size: int) -> Tensor:
        values, slopes = [], []
        for part, goal in zip(torch.split(hidden, size), torch.split(targets, size), strict=True):
            logits = head(part)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            chosen = logits.gather(-1, goal[:, None])[:, 0]
            total = logits.logsumexp(-1)
            values.append(chosen - total)
            if ctx.needs_input_grad[0]:
                probabilities = logits.sub_(total[:, None]).exp_().to(hidden.dtype)
                slopes.append(head.weight[goal] - probabilities @ head.weight)
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (slopes,) = ctx.saved_tensors
        return gradients[0][:, None].to(slopes.dtype) * slopes, None, None, None


def padded(logprobs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Answers of different lengths as (A, T) with zeros, and their mask (A, T)."""
    values = pad_sequence(list(logprobs), batch_first=True)
    lengths = torch.tensor([len(answer) for answer in logprobs], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device)[None] < lengths[:, None]
