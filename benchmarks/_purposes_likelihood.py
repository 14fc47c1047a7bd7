"""How likely answers are under the base model and under adapters, token by token: by the learner's own model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers import AutoProcessor

from clients.client import PlumblineClient
from clients.demo.language import Question
from clients.demo.settings import MODEL
from learner.examples import Limits
from learner.model import Base, Policy
from learner.prefix import PrefixModel, Row, split_rows
from learner.publish import fetch
from learner.vision import Vision
from server.wire.base import BASE

MAX_TOKENS: Final = 8192
"""In one forward pass."""
FEATURES_BYTES: Final = 2**28


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt with its images, by name, and answers to it."""

    prompt: tuple[int, ...]
    images: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...]


class Likelihood:
    """Images are read from the server, those of `case`'s questions from their scenes. Not to be used by two threads."""

    def __init__(self, client: PlumblineClient) -> None:
        self._client = client
        self._base = Base(MODEL, "cpu")
        self._scenes: dict[str, bytes] = {}
        self._vision = Vision(self._base.model, MODEL, self._read, FEATURES_BYTES)
        self._processor: Any = AutoProcessor.from_pretrained(MODEL)  # type: ignore[no-untyped-call]

    def _read(self, image: str) -> bytes:
        return self._scenes[image] if image in self._scenes else self._client.media(image)

    def case(self, asked: Question, texts: Sequence[str]) -> Case:
        """The question as the server asks it, with these answers; no answer is ended."""
        name = f"scene {asked.scene.seed}"
        self._scenes[name] = asked.scene.render()
        content = [{"type": "image"}, {"type": "text", "text": asked.prompt}]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        cells = sum(self._vision.features(name).runs)
        prompt = prompt.replace(self._processor.image_token, self._processor.image_token * cells)
        return Case(self.tokens(prompt), (name,), tuple(map(self.tokens, texts)))

    def limits(self, base_digest: str) -> Limits:
        return Limits(base_digest, self._base.vocabulary, self._base.max_positions, self._base.image_token_id)

    def tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._processor.tokenizer.encode(text, add_special_tokens=False))

    @torch.no_grad()
    def of(self, adapter: str, cases: Sequence[Case]) -> list[list[Tensor]]:
        """Of every token, (tokens,), by case and answer. `adapter` may be "base"."""
        policy = None if adapter == BASE else Policy.from_files(self._base, fetch(self._client, adapter))
        try:
            engine = PrefixModel(policy.model if policy else self._base.model)
            rows = [self._row(case) for case in cases]
            flat = [
                values
                for part in split_rows([row.length for row in rows], MAX_TOKENS)
                for values in engine.logprobs([rows[index] for index in part])
            ]
        finally:
            if policy is not None:
                policy.close()
        values = iter(flat)
        return [[next(values) for _ in case.answers] for case in cases]

    def _row(self, case: Case) -> Row:
        return Row(case.prompt, tuple(self._vision.features(image) for image in case.images), case.answers)


def totals(values: Sequence[Sequence[Tensor]]) -> list[list[float]]:
    """Log-probability of every whole answer."""
    return [[float(one.sum()) for one in answers] for answers in values]


def changes(after: Sequence[Sequence[float]], before: Sequence[Sequence[float]]) -> list[list[float]]:
    """Δ of every answer."""
    return [[a - b for a, b in zip(*answers, strict=True)] for answers in zip(after, before, strict=True)]
