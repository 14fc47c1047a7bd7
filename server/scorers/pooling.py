"""A reward model behind vLLM's pooling routes: one request for each answer, or one for all (`score`).

    classify, pooling   the conversation, images included, with the answer as its last turn → the model's outputs
    score               the user's last message, images included, and the answers → one number each (cross-encoders)

Equal answers are scored once, scores are kept, requests are bounded over all prompts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from reward.scorers.cache import Cache, prompt_key
from reward.types import Candidate, Image, Message, Prompt
from server.config.scorers import PoolingConfig
from server.engine.payload import data_url, messages_body
from server.json_endpoint import Json, JsonEndpoint
from server.scorers.errors import ScorerError
from server.scorers.gathering import all_of


class PoolingScorer:
    def __init__(self, config: PoolingConfig, endpoint: JsonEndpoint, name: str = "pooling") -> None:
        self.name = name
        settings = config.model_dump_json(include={"model", "route", "output", "activation", "images"})
        self.version = sha256(settings.encode()).hexdigest()[:12]
        self._config = config
        self._endpoint = endpoint
        self._free = asyncio.Semaphore(config.max_concurrent)
        self._kept: Cache[tuple[bytes, str], float] = Cache(config.cache_size)

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate]) -> list[float | None]:
        key = prompt_key(prompt)
        texts = list(dict.fromkeys(one.text for one in candidates))
        found = {text: value for text in texts if (value := self._kept.get((key, text))) is not None}
        missing = [text for text in texts if text not in found]
        if missing:
            fresh = await self._ask(_without_images(prompt) if not self._config.images else prompt, missing)
            for text, value in zip(missing, fresh, strict=True):
                found[text] = value
                if math.isfinite(value):
                    self._kept.put((key, text), value)
        return [found[one.text] for one in candidates]

    async def _ask(self, prompt: Prompt, texts: Sequence[str]) -> list[float]:
        if self._config.route == "score":
            async with self._free:
                reply = await self._endpoint.post("/score", self._score_body(prompt, texts))
            return [_number(entry.get("score")) for entry in _entries(reply, len(texts))]
        return await all_of(self._ask_one(prompt, text) for text in texts)

    async def _ask_one(self, prompt: Prompt, text: str) -> float:
        route = self._config.route
        whole = replace(prompt, messages=(*prompt.messages, Message("assistant", (text,))))
        body: Json = {
            "model": self._config.model,
            "messages": messages_body(whole),
            "add_generation_prompt": False,
            "use_activation": self._config.activation,
        }
        if route == "pooling":
            body["task"] = "classify"
        async with self._free:
            reply = await self._endpoint.post(f"/{route}", body)
        (entry,) = _entries(reply, 1)
        outputs = entry.get("probs" if route == "classify" else "data")
        if not isinstance(outputs, list) or len(outputs) <= self._config.output:
            raise ScorerError(f"the model has no output {self._config.output}")
        return _number(outputs[self._config.output])

    def _score_body(self, prompt: Prompt, texts: Sequence[str]) -> Json:
        asked = next((one for one in reversed(prompt.messages) if one.role == "user"), Message("user", ()))
        images = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in prompt.images]
        query: str | Json = asked.text
        if images:
            query = {"content": [*images, {"type": "text", "text": asked.text}]}
        return {
            "model": self._config.model,
            "queries": query,
            "documents": list(texts),
            "use_activation": self._config.activation,
        }


def _without_images(prompt: Prompt) -> Prompt:
    def bare(message: Message) -> Message:
        return replace(message, parts=tuple(part for part in message.parts if not isinstance(part, Image)))

    return replace(prompt, messages=tuple(bare(message) for message in prompt.messages))


def _entries(reply: Json, count: int) -> list[dict[str, Any]]:
    entries = reply.get("data")
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ScorerError("the engine's reply holds no scores")
    if sorted(str(one.get("index")) for one in entries) != sorted(str(place) for place in range(count)):
        raise ScorerError(f"the engine gave {len(entries)} scores for {count} answers")
    return sorted(entries, key=lambda one: int(one["index"]))


def _number(value: object) -> float:
    """Also NaN, as Python writes it: the ensemble leaves it out."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScorerError("the engine's score is not a number")
    return float(value)
