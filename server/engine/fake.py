"""`FakeEngine`: a deterministic adapter of the engine port, for unit tests of everything above the engine.

Answers are drawn from a small vocabulary by hashes of (model, prompt, seed + index), as reproducible as vLLM's:
candidate i under seed s is candidate 0 under seed s + i, `score()` of a generated text gives the log-probabilities
of its generation, temperature 0 ignores the seed, every adapter answers differently. Scripts, failures,
delays and readiness can be set. Leaves out sampling parameters other than seed, temperature, stop, max_tokens and
the schema of a JSON answer; token ids of `logit_bias` are checked, not used.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path

from reward.types import STEP, Candidate, Image, Message, Prompt
from server import tool_calls
from server.engine.fake_json import drawn_json
from server.engine.port import (
    Beginning,
    Delta,
    EncodedAnswers,
    EngineError,
    EngineUnreachable,
    Generation,
    PromptTooLong,
    RefusedParameter,
    Retokenised,
    Sampling,
    ScoredAnswer,
    TokenAlternatives,
    UnknownModel,
)

END_OF_TURN = 2
IMAGE_PAD = 5
TOKENS_PER_IMAGE = 9

_WORDS = ("a", "red", "green", "blue", "small", "large", "cup", "plate", "and", "the", "left", "of", "there", "is")
_PIECES = re.compile(r"\s*\S+|\s+$")

Script = Callable[[str, Prompt, int], str | None]
"""(model, prompt, index) → the answer's text, or None for a drawn one."""
TokenLogprob = Callable[[str, Prompt, str], float]
"""(model, prompt, token's text) → its log-probability."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as the tests look it up."""

    method: str
    model: str
    prompt: Prompt
    n: int = 1
    sampling: Sampling | None = None
    answer: str = ""


@dataclass(slots=True)
class FakeEngine:
    """Adapters are known when registered, or when a directory of their name stands in `adapters_dir`."""

    base_model: str = "base"
    adapters: set[str] = field(default_factory=set)
    adapters_dir: Path | None = None
    loaded: set[str] = field(default_factory=set)
    """Adapters that were asked for and not unloaded since."""
    script: Script | None = None
    token_logprob: TokenLogprob | None = None
    max_model_len: int = 4096
    vocabulary_size: int = 256 + 2**24
    knows_tools: bool = True
    misread: frozenset[str] = frozenset()
    """Beginnings of answers that it reads as other tokens than it sampled."""
    delay_s: float = 0.0
    """Every answer, score and streamed piece takes so long."""
    ready: bool = True
    software: str = "fake 1"
    calls: list[Call] = field(default_factory=list)
    progress: int = 0
    closed: bool = False
    _failures: deque[EngineError] = field(default_factory=deque)
    _unseeded: int = 0

    def register(self, adapter_id: str) -> None:
        """Make an adapter known."""
        self.adapters.add(adapter_id)

    def fail_next(self, error: EngineError, times: int = 1) -> None:
        """Let the next calls fail, whichever they are; later ones work again."""
        self._failures.extend([error] * times)

    async def generate(self, model: str, prompt: Prompt, n: int, sampling: Sampling) -> Generation:
        await self._enter(Call("generate", model, prompt, n, sampling))
        if sampling.temperature == 0 and n > 1:
            raise EngineError("n must be 1 at temperature 0", retryable=False)
        self._require_vocabulary(sampling)
        prompt_token_ids = self._fitting(prompt, sampling.max_tokens)
        first_seed = self._seed(sampling)
        candidates = tuple(self._candidate(model, prompt, index, first_seed, sampling) for index in range(n))
        self.progress += 1
        return Generation(
            prompt_token_ids=prompt_token_ids,
            candidates=candidates,
            tokens=tuple(_alternatives(candidate, sampling.top_logprobs) for candidate in candidates),
        )

    async def stream(self, model: str, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta]:
        await self._enter(Call("stream", model, prompt, 1, sampling))
        self._require_vocabulary(sampling)
        prompt_token_ids = self._fitting(prompt, sampling.max_tokens)
        candidate = self._candidate(model, prompt, 0, self._seed(sampling), sampling)
        tokens = _alternatives(candidate, sampling.top_logprobs)
        last = len(candidate.token_ids) - 1
        left = candidate.text
        for position, token in enumerate(tokens):
            if position:
                await asyncio.sleep(self.delay_s)
            self.progress += 1
            # A stop string's token has no text, the last visible one may be cut.
            text, left = left[: len(token.token)], left[len(token.token) :]
            yield Delta(
                text=text,
                token_ids=candidate.token_ids[position : position + 1],
                logprobs=(token.logprob,),
                tokens=(token,),
                prompt_token_ids=() if position else prompt_token_ids,
                finish_reason=candidate.finish_reason if position == last else None,
            )

    async def extend(self, model: str, prompt: Prompt, beginning: Beginning, n: int, sampling: Sampling) -> Generation:
        await self._enter(Call("extend", model, prompt, n, sampling, beginning.text))
        if not self._reads_as_sampled(beginning):
            raise Retokenised
        self._require_vocabulary(sampling)
        prompt_token_ids = self._fitting(prompt, len(beginning.token_ids) + sampling.max_tokens)
        first_seed = self._seed(sampling)
        so_far = (Message("assistant", (beginning.text,)),) if beginning.text else ()
        begun = replace(prompt, messages=(*prompt.messages, *so_far))
        drawn = [self._candidate(model, begun, index, first_seed, sampling) for index in range(n)]
        candidates = tuple(_paused(self._behind(beginning, model, prompt, one), beginning.ends) for one in drawn)
        self.progress += 1
        tokens = tuple(_alternatives(one, sampling.top_logprobs) for one in candidates)
        return Generation(prompt_token_ids, candidates, tokens)

    async def can_extend(self, beginning: Beginning) -> bool:
        await self._enter(Call("can_extend", self.base_model, Prompt(()), answer=beginning.text))
        return self._reads_as_sampled(beginning)

    async def score(self, model: str, prompt: Prompt, answer: str) -> ScoredAnswer:
        await self._enter(Call("score", model, prompt, answer=answer))
        pieces = _PIECES.findall(answer)
        self._fitting(prompt, len(pieces))
        self.progress += 1
        return ScoredAnswer(
            token_ids=tuple(_token_id(piece) for piece in pieces),
            logprobs=self._logprobs(model, prompt, pieces),
        )

    async def encode(self, prompt: Prompt, answers: Sequence[str]) -> EncodedAnswers:
        await self._enter(Call("encode", self.base_model, prompt, n=len(answers)))
        encoded = tuple(tuple(_token_id(piece) for piece in _PIECES.findall(answer)) for answer in answers)
        prompt_token_ids = self._fitting(prompt, max(map(len, encoded), default=0))
        self.progress += 1
        return EncodedAnswers(prompt_token_ids, encoded)

    async def speaks_of_tools(self) -> bool:
        self._require_up()
        return self.knows_tools

    async def is_ready(self) -> bool:
        return self.ready and not self.closed

    async def warm_up(self) -> None:
        if not self.ready:
            raise EngineError("the fake engine is not ready")

    async def version(self) -> str:
        return self.software

    async def loaded_adapters(self) -> frozenset[str]:
        self._require_up()
        return frozenset(self.loaded)

    async def unload(self, adapter: str) -> None:
        self._require_up()
        self.loaded.discard(adapter)

    async def close(self) -> None:
        self.closed = True

    def _behind(self, beginning: Beginning, model: str, prompt: Prompt, added: Candidate) -> Candidate:
        """What was added, with the log-probabilities that it has behind the beginning."""
        pieces = _PIECES.findall(beginning.text + added.text)
        own = self._logprobs(model, prompt, pieces)[len(beginning.token_ids) :]
        return replace(added, logprobs=own + added.logprobs[len(own) :])

    def _reads_as_sampled(self, beginning: Beginning) -> bool:
        read = tuple(map(_token_id, _PIECES.findall(beginning.text)))
        return beginning.text not in self.misread and read == beginning.token_ids

    def _require_up(self) -> None:
        if self.closed or not self.ready:
            raise EngineUnreachable("the fake engine is down")

    async def _enter(self, call: Call) -> None:
        self.calls.append(call)
        await asyncio.sleep(self.delay_s)
        self._require_up()
        if self._failures:
            raise self._failures.popleft()
        if not self._knows(call.model):
            raise UnknownModel(f"unknown model {call.model}")
        if call.model != self.base_model:
            self.loaded.add(call.model)

    def _knows(self, model: str) -> bool:
        if model == self.base_model or model in self.adapters:
            return True
        return self.adapters_dir is not None and (self.adapters_dir / model / "adapter_config.json").is_file()

    def _require_vocabulary(self, sampling: Sampling) -> None:
        if any(token >= self.vocabulary_size for token, _ in sampling.logit_bias):
            raise RefusedParameter("logit_bias")

    def _fitting(self, prompt: Prompt, max_tokens: int) -> tuple[int, ...]:
        token_ids = encode_prompt(prompt)
        if len(token_ids) >= self.max_model_len or max_tokens > self.max_model_len:
            raise PromptTooLong(f"{len(token_ids)} + {max_tokens} tokens")
        return token_ids

    def _seed(self, sampling: Sampling) -> int:
        if sampling.seed is not None:
            return sampling.seed
        self._unseeded += 1
        return -1000 * self._unseeded

    def _candidate(self, model: str, prompt: Prompt, index: int, first_seed: int, sampling: Sampling) -> Candidate:
        text = self.script(model, prompt, index) if self.script is not None else None
        if text is None:
            seed: int | str = "greedy" if sampling.temperature == 0 else first_seed + index
            text = _drawn_text(model, prompt, seed, sampling)
        if prompt.messages[-1].role == "assistant" and not text[:1].isspace():
            text = f" {text}"  # a word behind another one
        pieces = _PIECES.findall(text)
        finish_reason = "stop"
        if found := min((text.find(stop) for stop in sampling.stop if stop in text), default=-1) + 1:
            text = text[: found - 1]
            pieces = _PIECES.findall(text)
        elif len(pieces) >= sampling.max_tokens:
            pieces = pieces[: sampling.max_tokens]
            text, finish_reason = "".join(pieces), "length"
        token_ids = [_token_id(piece) for piece in pieces]
        logprobs = list(self._logprobs(model, prompt, pieces))
        if finish_reason == "stop":
            token_ids.append(END_OF_TURN)
            logprobs.append(-0.5)
        kept = range(sampling.certainty_top_k)
        alternatives = tuple(tuple(value - place for place in kept) for value in logprobs) if kept else ()
        return Candidate(
            index, model, text, tuple(token_ids), tuple(logprobs), finish_reason, alternatives=alternatives
        )

    def _logprobs(self, model: str, prompt: Prompt, pieces: Sequence[str]) -> tuple[float, ...]:
        if self.token_logprob is not None:
            return tuple(self.token_logprob(model, prompt, piece) for piece in pieces)
        context = _context(prompt)
        return tuple(-0.05 - 3.0 * _share(model, context, *pieces[: position + 1]) for position in range(len(pieces)))


def _paused(answer: Candidate, ends: Sequence[str]) -> Candidate:
    """The answer up to the token that holds the first of `ends`; as it is where none does."""
    pieces = _PIECES.findall(answer.text)
    for size in range(1, len(pieces) + 1):
        if any(end in "".join(pieces[:size]) for end in ends):
            return replace(
                answer,
                text="".join(pieces[:size]),
                token_ids=answer.token_ids[:size],
                logprobs=answer.logprobs[:size],
                finish_reason=STEP,
                alternatives=answer.alternatives[:size],
            )
    return answer


def encode_prompt(prompt: Prompt) -> tuple[int, ...]:
    """The fake's ids of a conversation: one for each word, nine placeholders for each image."""
    token_ids = [_token_id(part) for tool in prompt.tools for part in (tool.name, tool.description, tool.parameters)]
    for message in prompt.messages:
        token_ids.append(_token_id(message.role))
        token_ids.extend(_token_id(tool_calls.written(call.name, call.arguments)) for call in message.tool_calls)
        for part in message.parts:
            if isinstance(part, Image):
                token_ids.extend([IMAGE_PAD] * TOKENS_PER_IMAGE)
            else:
                token_ids.extend(_token_id(piece) for piece in _PIECES.findall(part))
        token_ids.append(END_OF_TURN)
    return tuple(token_ids)


def _context(prompt: Prompt) -> tuple[object, ...]:
    return (encode_prompt(prompt), *(image.sha256 for image in prompt.images))


def _drawn_text(model: str, prompt: Prompt, seed: int | str, sampling: Sampling) -> str:
    key = (model, _context(prompt), seed)
    turns = itertools.count()

    def draw(count: int) -> int:
        return int(_share(*key, next(turns)) * count)

    if sampling.json_schema is not None:
        return drawn_json(sampling.json_schema, draw)
    if sampling.forced_tools:
        name = sampling.forced_tools[draw(len(sampling.forced_tools))]
        parameters = next(tool.parameters for tool in prompt.tools if tool.name == name)
        return tool_calls.written(name, drawn_json(parameters, draw))
    length = 4 + int(_share(*key, "length") * 8)
    return " ".join(_WORDS[int(_share(*key, position) * len(_WORDS))] for position in range(length))


def _alternatives(candidate: Candidate, top_logprobs: int) -> tuple[TokenAlternatives, ...]:
    texts = _PIECES.findall(candidate.text)
    texts += [""] * (len(candidate.token_ids) - len(texts))
    return tuple(
        TokenAlternatives(text, logprob, ((text, logprob), ("other", logprob - 1.0))[:top_logprobs])
        for text, logprob in zip(texts, candidate.logprobs, strict=True)
    )


def _token_id(piece: str) -> int:
    return 256 + int.from_bytes(_digest(piece)[:3], "big")


def _share(*key: object) -> float:
    """A number in [0, 1) that depends on the key alone."""
    return int.from_bytes(_digest(*key)[:6], "big") / 2**48


def _digest(*key: object) -> bytes:
    return blake2b(repr(key).encode(), digest_size=8).digest()
