"""Bodies of vLLM's chat requests and what its replies mean: pure functions, no I/O.

Promises: a request leaves nothing to defaults that a model's own `generation_config.json` could change, so
`Sampling.is_on_policy` holds on any replica; a reply that is not what was asked for raises `EngineError`,
never `KeyError`. Leaves out connections and deadlines (`client`). Called by `client` alone.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json

from reward.types import STEP, Candidate, Image, Message, Prompt
from server import tool_calls
from server.engine.port import (
    Beginning,
    Delta,
    EncodedAnswers,
    EngineError,
    Generation,
    PromptTooLong,
    RefusedParameter,
    Retokenised,
    Sampling,
    ScoredAnswer,
    TokenAlternatives,
    UnknownModel,
)

Json = dict[str, Any]

MAX_TOP_LOGPROBS = 20
"""vLLM's own limit (`--max-logprobs`); above it a request is refused."""

_TOO_LONG_PARAMS = frozenset({"input_tokens", "input_text", "max_tokens", "max_completion_tokens"})
_REFUSALS = {
    "in logit_bias contain": "logit_bias",
    "into a grammar": "json_schema",
    "structural tag": "forced_tools",
}
"""What vLLM says of a parameter that it cannot follow."""
_FINISH_REASONS = frozenset({"stop", "length"})
_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x20) if chr(code) not in "\n\r"}
"""Control characters as JSON writes them. The engine's grammar lets them through, as they are, in strings that a
schema bounds in length (xgrammar #800, up to 0.2.3); line ends it does not, and nothing stands outside strings."""


def chat_body(model: str, prompt: Prompt, n: int, sampling: Sampling, *, stream: bool) -> Json:
    """A request for `n` sampled answers with their token ids and log-probabilities."""
    body: Json = {
        "model": model,
        "messages": messages_body(prompt),
        "n": n,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": -1 if sampling.top_k is None else sampling.top_k,
        "min_p": 0.0 if sampling.min_p is None else sampling.min_p,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "repetition_penalty": 1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty,
        "stop": list(sampling.stop),
        "logprobs": True,
        "return_token_ids": True,
        "stream": stream,
        **tools_body(prompt),
    }
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    if sampling.json_schema is not None:
        body["structured_outputs"] = {"json": sampling.json_schema}
    if sampling.forced_tools:
        body["structured_outputs"] = {"structural_tag": tool_calls.grammar(prompt.tools, sampling.forced_tools)}
    if wanted := _alternatives_wanted(sampling):
        # vLLM counts the sampled token among the alternatives: one more, and the k likeliest are surely there.
        body["top_logprobs"] = min(wanted + 1, MAX_TOP_LOGPROBS)
    return body


def extend_body(model: str, prompt: Prompt, beginning: Beginning, n: int, sampling: Sampling) -> Json:
    """A request for `n` continuations of an answer's beginning, each up to and with the first of its `ends`."""
    body = chat_body(model, prompt, n, sampling, stream=False)
    body |= {"stop": list(beginning.ends), "include_stop_str_in_output": True}
    return body | _left_open(prompt, beginning.text) if beginning.text else body


def score_body(model: str, prompt: Prompt, answer: str) -> Json:
    """A request for the log-probabilities of a conversation that ends with `answer`, left open."""
    return {
        "model": model,
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
        "return_token_ids": True,
        **_left_open(prompt, answer),
        **tools_body(prompt),
    }


def render_body(model: str, prompt: Prompt, beginning: str = "") -> Json:
    """A request for the ids of a prompt that waits for its answer, or its rest (image placeholders expanded)."""
    # This route takes the tools as they are and has no `tool_choice`.
    tools = {"tools": tools_body(prompt)["tools"]} if prompt.tools else {}
    open_end = _left_open(prompt, beginning) if beginning else {"add_generation_prompt": True}
    return {"model": model, "messages": messages_body(prompt), **open_end, **tools}


def _left_open(prompt: Prompt, answer: str) -> Json:
    """A conversation whose last turn is the answer as far as it has come."""
    ending = Message("assistant", (answer,))
    return {
        "messages": messages_body(dataclasses.replace(prompt, messages=(*prompt.messages, ending))),
        "continue_final_message": True,
        "add_generation_prompt": False,
    }


def encode_body(model: str, text: str) -> Json:
    """A request for the ids of a bare text."""
    return {"model": model, "prompt": text, "add_special_tokens": False}


def messages_body(prompt: Prompt) -> list[Json]:
    return [_message(message) for message in prompt.messages]


def tools_body(prompt: Prompt) -> Json:
    """The template tells the model of the tools. Parsing the calls is ours, so the engine is told to leave them."""
    if not prompt.tools:
        return {}
    functions = [
        {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
        for tool in prompt.tools
    ]
    return {"tools": [{"type": "function", "function": one} for one in functions], "tool_choice": "none"}


def _message(message: Message) -> Json:
    body: Json = {"role": message.role, "content": _content(message)}
    if message.tool_calls:
        body["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    return body


def data_url(image: Image) -> str:
    """The image's bytes, unchanged, as the engine takes them."""
    return f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"


def _content(message: Message) -> str | list[Json]:
    if not message.images:
        return message.text
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in message.parts
    ]


def generation_from(reply: Json, model: str, n: int, sampling: Sampling) -> Generation:
    """The reply to `chat_body(model, prompt, n, sampling, stream=False)`."""
    try:
        choices = sorted(reply["choices"], key=lambda choice: choice["index"])
        answers = [_candidate(choice, model, sampling) for choice in choices]
        prompt_token_ids = tuple(reply["prompt_token_ids"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(f"the engine's answer is not what was asked for: {type(error).__name__}") from error
    if [candidate.index for candidate, _ in answers] != list(range(n)):
        raise EngineError(f"the engine gave {len(answers)} answers instead of {n}")
    return Generation(
        prompt_token_ids=prompt_token_ids,
        candidates=tuple(candidate for candidate, _ in answers),
        tokens=tuple(tokens for _, tokens in answers),
    )


def continuations_from(reply: Json, model: str, beginning: Beginning, n: int, sampling: Sampling) -> Generation:
    """The reply to `extend_body`; raises `Retokenised` where it went on from other tokens."""
    made = generation_from(reply, model, n, sampling)
    known = len(made.prompt_token_ids) - len(beginning.token_ids)
    if made.prompt_token_ids[known:] != beginning.token_ids:
        raise Retokenised
    choices = sorted(reply["choices"], key=lambda choice: choice["index"])
    paused = [choice.get("stop_reason") in beginning.ends for choice in choices]
    candidates = tuple(
        dataclasses.replace(one, text=one.text + _cut_off(one.text, tokens[-1].token), finish_reason=STEP)
        if is_paused and tokens
        else one
        for one, tokens, is_paused in zip(made.candidates, made.tokens, paused, strict=True)
    )
    return Generation(made.prompt_token_ids[:known], candidates, made.tokens)


def _cut_off(text: str, last: str) -> str:
    """What the last token says behind the end at which the engine cut the text: the token was sampled as a whole."""
    inside = next((size for size in range(1, len(last)) if text.endswith(last[:size])), len(last))
    return last[inside:]


def _candidate(choice: Json, model: str, sampling: Sampling) -> tuple[Candidate, tuple[TokenAlternatives, ...]]:
    token_ids, tokens = _sampled(choice, _alternatives_wanted(sampling))
    certain = sampling.certainty_top_k
    candidate = Candidate(
        index=choice["index"],
        adapter=model,
        text=_text(choice["message"], sampling),
        token_ids=token_ids,
        logprobs=tuple(token.logprob for token in tokens),
        finish_reason=_finish_reason(choice["finish_reason"]),
        alternatives=tuple(tuple(value for _, value in one.top[:certain]) for one in tokens) if certain else (),
    )
    if certain > sampling.top_logprobs:  # the app did not ask for so many
        tokens = tuple(dataclasses.replace(one, top=one.top[: sampling.top_logprobs]) for one in tokens)
    return candidate, tokens


def _alternatives_wanted(sampling: Sampling) -> int:
    return max(sampling.top_logprobs, sampling.certainty_top_k)


def delta_from(event: Json, sampling: Sampling) -> Delta | None:
    """One event of a stream; None for an event without a choice (usage)."""
    if "error" in event:
        raise error_from(_status_of(event["error"]), event)
    try:
        if not event["choices"]:
            return None
        choice = event["choices"][0]
        token_ids, tokens = _sampled(choice, sampling.top_logprobs)
        reason = choice.get("finish_reason")
        return Delta(
            text=_text(choice["delta"], sampling),
            token_ids=token_ids,
            logprobs=tuple(token.logprob for token in tokens),
            tokens=tokens,
            prompt_token_ids=tuple(event.get("prompt_token_ids") or ()),
            finish_reason=None if reason is None else _finish_reason(reason),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise EngineError(f"the engine's stream is not what was asked for: {type(error).__name__}") from error


def _text(message: Json, sampling: Sampling) -> str:
    text: str = message.get("content") or ""
    return text if sampling.json_schema is None else text.translate(_ESCAPES)


def _status_of(error: object) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) else 500


def _sampled(choice: Json, top_logprobs: int) -> tuple[tuple[int, ...], tuple[TokenAlternatives, ...]]:
    token_ids = tuple(choice.get("token_ids") or ())
    content = (choice.get("logprobs") or {}).get("content") or ()
    tokens = tuple(_alternatives(entry, top_logprobs) for entry in content)
    if len(token_ids) != len(tokens):
        raise ValueError(f"{len(token_ids)} token ids with {len(tokens)} log-probabilities")
    return token_ids, tokens


def _alternatives(entry: Json, top_logprobs: int) -> TokenAlternatives:
    if not top_logprobs:
        return TokenAlternatives(entry["token"], _finite(entry["logprob"]), ())
    top = [(other["token"], _finite(other["logprob"])) for other in entry.get("top_logprobs") or ()]
    top.sort(key=lambda pair: -pair[1])
    return TokenAlternatives(entry["token"], _finite(entry["logprob"]), tuple(top[:top_logprobs]))


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("a log-probability is not a finite number")
    return value


def _finish_reason(reason: str | None) -> str:
    if reason not in _FINISH_REASONS:
        raise ValueError(f"an answer ended with {reason!r}")
    return reason


def scored_prompt_from(reply: Json) -> ScoredAnswer:
    """The reply to `score_body`: the whole conversation, its first token (which has no value) as 0."""
    try:
        token_ids = tuple(reply["prompt_token_ids"])
        positions = reply["prompt_logprobs"]
        logprobs = tuple(
            _finite(position[str(token)]["logprob"]) if position else 0.0
            for token, position in zip(token_ids, positions, strict=True)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"the engine's scores are not what was asked for: {type(error).__name__}") from error
    return ScoredAnswer(token_ids, logprobs)


def token_ids_from(reply: Json) -> tuple[int, ...]:
    """The reply to `encode_body` or `render_body`."""
    try:
        return tuple(reply["tokens"])
    except (KeyError, TypeError) as error:
        raise EngineError(f"the engine's encoding is not what was asked for: {type(error).__name__}") from error


def adapters_from(reply: Json, base_model: str) -> frozenset[str]:
    """The names in the reply to `GET /v1/models`, without the base model's."""
    try:
        return frozenset(str(card["id"]) for card in reply["data"]) - {base_model}
    except (KeyError, TypeError) as error:
        raise EngineError("the engine's list of models is not one") from error


def encoded_answers_from(rendered: Json, encoded: Sequence[Json]) -> EncodedAnswers:
    """The replies to `render_body` and to `encode_body` for each answer."""
    prompt_token_ids = token_ids_from(rendered)
    answers = tuple(token_ids_from(reply) for reply in encoded)
    limit = rendered.get("max_model_len")
    if not isinstance(limit, int):
        raise EngineError("the engine does not tell the length of its context")
    if len(prompt_token_ids) + max(map(len, answers), default=0) > limit:
        raise PromptTooLong(f"more than {limit} tokens")
    return EncodedAnswers(prompt_token_ids, answers)


def tail(conversation: ScoredAnswer, start: int) -> ScoredAnswer:
    return ScoredAnswer(conversation.token_ids[start:], conversation.logprobs[start:])


def ends_with(token_ids: Sequence[int], ending: Sequence[int]) -> bool:
    return len(ending) < len(token_ids) and tuple(token_ids[len(token_ids) - len(ending) :]) == tuple(ending)


def starts_with(token_ids: Sequence[int], beginning: Sequence[int]) -> bool:
    return tuple(token_ids[: len(beginning)]) == tuple(beginning)


def error_from(status: int, reply: object) -> EngineError:
    """What a refusal means. Of a refused request the engine's text is left out: it may quote what a user wrote."""
    error = reply.get("error", reply) if isinstance(reply, dict) else {}
    error = error if isinstance(error, dict) else {}
    message = f"HTTP {error.get('code', status)}: {error.get('message', '')}"[:1000]
    if status == 404 and error.get("param") == "model":
        return UnknownModel(message)
    if status == 404 and "LoRA adapter" in message:
        return UnknownModel(message)
    if status == 400 and (error.get("param") in _TOO_LONG_PARAMS or "maximum context length" in message):
        return PromptTooLong(message)
    for sign, parameter in _REFUSALS.items():
        if status == 400 and sign in message:
            return RefusedParameter(parameter)
    if status < 500:
        message = f"HTTP {status}"
    return EngineError(message, retryable=status >= 500 or status in {408, 425, 429})


class EventParser:
    """Splits a stream of server-sent events that arrives in arbitrary pieces. Only `data:` lines count."""

    MAX_PENDING_BYTES = 16 * 1024 * 1024

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, piece: bytes) -> list[Json | None]:
        """The events completed by this piece; None stands for the stream's regular end."""
        *lines, self._pending = (self._pending + piece).split(b"\n")
        if len(self._pending) > self.MAX_PENDING_BYTES:
            raise EngineError("the engine's stream has an endless line")
        return [self._event(line[5:].strip()) for line in lines if line.startswith(b"data:")]

    @staticmethod
    def _event(data: bytes) -> Json | None:
        if data == b"[DONE]":
            return None
        try:
            event = from_json(data)
        except ValueError as error:
            raise EngineError("the engine's stream is not JSON") from error
        if not isinstance(event, dict):
            raise EngineError("the engine's stream holds something that is no event")
        return event
